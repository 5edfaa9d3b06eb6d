"""What a freeze holds back on a node, and for how long."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.errors import UnknownFormat, Untrusted
from agentd.fleet.envelope import Envelope
from agentd.fleet.freeze import NAME, read_freeze, render_freeze
from agentd.fleet.gate import Gate
from agentd.fleet.head import Head
from agentd.fleet.log_budget import MOST_LINES
from agentd.fleet.reader import Reader
from agentd.trust.keyring import Signer
from agentd.trust.options import TrustOptions
from tests.unit.fleet.shelf import NOW, Shelf
from tests.unit.fleet.test_follower import Bench
from tests.unit.trust.samples import OPS, OTHER, secret_key

HELD = "frozen by ops@admin: db work"


def trusting(may: str = "*", **more: object) -> Gate:
    """A gate that requires the signature of ops."""
    publishers = {
        "ops": {"key": OPS.public.text, "may": may},
        "other": {"key": OTHER.public.text, "may": "ban"},
    }
    return Gate(TrustOptions.model_validate({"require": "signed", "publishers": publishers, **more}))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A node that has applied message "a"."""
    made = Bench(tmp_path)
    with closing(made.journal):
        made.publish("a")
        made.turn()
        made.handle()
        yield made


def say(bench: Bench, *, frozen: bool, num: int = 0, reason: str = "db work", **more: object) -> Envelope:
    """Publish a freeze or a thaw."""
    fields = {"kind": "freeze", "publisher": "ops@admin", "keep": "latest", **more}
    return bench.shelf.publish(NAME, render_freeze(reason, frozen=frozen), num=num, **fields)  # type: ignore[arg-type]


def test_new_messages_wait_and_go_in_order_after_the_thaw(bench: Bench) -> None:
    """All at once, so that they are one commit; the reason names who froze, and why."""
    say(bench, frozen=True)
    for body in "bcd":
        bench.publish(body)
    bench.turn()
    held = bench.waiting, bench.waits, bench.position
    bench.publish("e")
    bench.turn()

    say(bench, frozen=False)
    bench.turn()

    assert held == ([], HELD, 1)
    assert bench.waiting == ["b", "c", "d", "e"]
    assert bench.waits == ""
    assert len(bench.given) == 2  # "a", and these four


def test_what_is_held_back_is_remembered(bench: Bench) -> None:
    """So that it can be written back if Consul loses it during the freeze; it is read once."""
    say(bench, frozen=True)
    bench.publish("b")
    bench.turn()
    bench.publish("c")
    bench.turn()
    asked = bench.shelf.asked
    bench.turn()

    assert bench.numbers == [1, 2, 3]
    assert bench.shelf.asked == asked


def test_what_waits_for_its_handler_already_goes_on(bench: Bench) -> None:
    """It was let in before."""
    bench.publish("b")
    bench.turn()
    say(bench, frozen=True)
    bench.turn()

    assert bench.waiting == ["b"]
    assert bench.waits == ""


def test_a_freeze_in_the_same_answer_counts_first(bench: Bench) -> None:
    """A node that catches up does not slip past it."""
    bench.publish("b")
    say(bench, frozen=True)
    bench.turn(live=False)

    assert bench.waiting == []


def test_urgent_names_are_not_held_back(bench: Bench) -> None:
    """An attack does not wait for a thaw."""
    bench.urgent = {"ban"}
    say(bench, frozen=True)
    bench.publish("b")
    bench.turn()

    assert bench.waiting == ["b"]


def test_it_ends_by_itself(bench: Bench) -> None:
    """At the time that its publisher set, by this node's clock."""
    say(bench, frozen=True, expires=NOW + 60)
    bench.publish("b")
    bench.turn()
    before = bench.waiting
    bench.now = NOW + 60
    bench.turn(news=False)

    assert before == []
    assert bench.waiting == ["b"]


@pytest.mark.parametrize("off", [-600.0, 600.0])
def test_a_clock_that_is_wrong_moves_only_the_end(bench: Bench, off: float) -> None:
    """A freeze without an end holds whatever the clock says; one with an end, 10 minutes more or less."""
    bench.now = NOW + off
    say(bench, frozen=True, expires=NOW + 60)
    bench.publish("b")
    bench.turn()
    timed = bench.waiting
    say(bench, frozen=True)
    bench.publish("c")
    bench.turn()

    assert timed == (["b"] if off > 0 else [])
    assert "c" not in bench.waiting


def test_a_message_whose_time_is_over_is_not_applied_after_the_thaw(bench: Bench) -> None:
    """A freeze stops no clock."""
    say(bench, frozen=True)
    bench.publish("short", expires=NOW + 10)
    bench.publish("long")
    bench.turn()
    bench.now = NOW + 11
    say(bench, frozen=False)
    bench.turn()

    assert bench.waiting == ["long"]


@pytest.mark.parametrize("gate", [Gate(None), trusting()])
def test_an_earlier_thaw_that_is_put_back_changes_nothing(bench: Bench, gate: Gate) -> None:
    """Nor does an old snapshot of Consul, nor its loss: the highest number counts."""
    bench.gate = gate
    bench.restart()
    signer = Signer(OPS)
    say(bench, frozen=False, num=5, signer=signer)
    thawed = dict(bench.shelf.values)
    bench.turn()
    say(bench, frozen=True, num=7, signer=signer)
    bench.publish("b", signer=signer)
    bench.turn()
    ban = {key: value for key, value in bench.shelf.values.items() if "/ban" in key}
    for values in (thawed | ban, ban):
        bench.shelf.values = dict(values)
        bench.turn()

    assert bench.freeze.freeze is not None
    assert (bench.freeze.freeze.num, bench.waiting) == (7, [])


def test_a_node_without_consul_stays_frozen_over_a_restart(bench: Bench) -> None:
    """Its own copy of the log says so; once Consul answers, it goes on from there."""
    frozen = say(bench, frozen=True)
    bench.publish("b")
    bench.turn()
    bench.restart()
    bench.freeze.recall([frozen])
    recalled = bench.freeze.holds("ban")
    bench.shelf.values = {key: value for key, value in bench.shelf.values.items() if NAME not in key}
    bench.turn(live=False)

    assert recalled == bench.freeze.holds("ban") == "frozen by ops@admin: db work"
    assert bench.waiting == []


@pytest.mark.parametrize(
    "signer, reason",
    [(None, "unsigned"), (Signer(OTHER), "forbidden"), (Signer(secret_key(3)), "unknown")],
)
def test_what_is_not_believed_freezes_nothing(bench: Bench, signer: Signer | None, reason: str) -> None:
    """Unsigned, by who may not, or by a stranger: counted once, and the names go on."""
    bench.gate = trusting()
    bench.restart()
    say(bench, frozen=True, signer=signer)
    bench.publish("b", signer=Signer(OPS))
    bench.turn()
    bench.turn()

    assert bench.waiting == ["b"]
    assert bench.refused == [(NAME, reason)]


def test_what_is_not_believed_thaws_nothing(bench: Bench) -> None:
    """However high its number is."""
    bench.gate = trusting()
    bench.restart()
    say(bench, frozen=True, signer=Signer(OPS))
    say(bench, frozen=False)
    bench.publish("b", signer=Signer(OPS))
    bench.turn()

    assert bench.waiting == []
    assert bench.waits == "frozen by ops: db work"


def test_forged_freezes_do_not_fill_the_log(bench: Bench) -> None:
    """However many there are, and however often the head is written."""
    bench.gate = trusting()
    bench.restart()
    with capture_logs() as lines:
        for _ in range(300):
            say(bench, frozen=True)
        for _ in range(3):
            bench.turn()
            bench.shelf.head(NAME, replace(bench.shelf.heads[NAME], mended=bench.shelf.asked))
    assert sum(line["event"] == "fleet.freeze_refused" for line in lines) == MOST_LINES
    assert bench.freeze.freeze is None


def test_a_freeze_is_never_sealed(bench: Bench) -> None:
    """Also where all names are, since everybody may read why; it must be signed."""
    options = {"publishers": {"ops": {"key": OPS.public.text, "may": "*"}}, "seal": "*"}
    trust = TrustOptions.model_validate(options | {"fleet_keys": ["/etc/agentd/fleet.key"]})

    assert not trust.seals(NAME)
    assert trust.must_be_signed(NAME)
    assert bench.freeze.freeze is None


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'{"frozen": 1}', b'{"frozen": true, "reason": 5}'),
        b'{"frozen": true, "frozen": false}',
        json.dumps({"frozen": True, "reason": "x" * 201}).encode(),
        json.dumps({"frozen": True, "reason": "\n"}).encode(),
    ],
)
def test_a_malformed_freeze_does_not_count(bench: Bench, body: bytes) -> None:
    """It is counted, and the one before it stays in force."""
    say(bench, frozen=True)
    bench.shelf.publish(NAME, body, kind="freeze")
    bench.publish("b")
    bench.turn()

    assert bench.waiting == []
    assert bench.refused == [(NAME, "malformed")]


def test_an_ordinary_message_of_that_name_is_no_freeze(bench: Bench) -> None:
    """Such as one that a relay would make of an event."""
    bench.shelf.publish(NAME, render_freeze("", frozen=True))
    bench.publish("b")
    bench.turn()

    assert bench.waiting == ["b"]


def test_a_newer_format_is_told_and_changes_nothing(bench: Bench) -> None:
    """Nobody knows what it says: what counted before does."""
    say(bench, frozen=True)
    bench.turn()
    newest = bench.shelf.heads[NAME].newest + 1
    bench.shelf.put(bench.shelf.keys_of.message(NAME, newest), b'{"format": 99}')
    bench.shelf.head(NAME, replace(bench.shelf.heads[NAME], newest=newest, count=2, recent=(), inline=None))
    bench.publish("b")
    bench.turn()

    assert "newer format" in bench.freeze.status.waits
    assert bench.waiting == []

    say(bench, frozen=False)  # whoever may write to the log cannot freeze for good
    bench.turn()

    assert bench.freeze.status.waits == ""
    assert bench.waiting == ["b"]


@given(
    st.lists(
        st.sampled_from(["publish", "freeze", "thaw", "turn", "stale", "handle", "restart", "expire"]),
        max_size=40,
    )
)
def test_nothing_is_lost_reordered_or_let_through(steps: list[str]) -> None:
    """Whatever happens in between: while frozen nothing new is queued, in the end all of it was, once."""
    with tempfile.TemporaryDirectory(prefix="freeze-") as directory:
        bench = Bench(Path(directory))
        with closing(bench.journal):
            frozen, applied, published = False, [], 0
            for step in [*steps, "thaw", "turn", "handle"]:
                before = bench.waiting
                match step:
                    case "publish":
                        published += 1
                        bench.publish(str(published))
                    case "freeze" | "thaw":
                        frozen = step == "freeze"
                        say(bench, frozen=frozen)
                    case "expire":
                        frozen = False
                        say(bench, frozen=True, expires=bench.now)
                    case "turn" | "stale":
                        bench.turn(live=step == "turn")
                        assert not frozen or bench.waiting == before
                    case "handle":
                        applied += bench.waiting
                        bench.handle()
                    case "restart":
                        bench.restart()
            assert applied == [str(number + 1) for number in range(published)]


# ---------------------------------------------------------------- for commands


def read(shelf: Shelf, gate: Gate) -> object:
    """The reason of the freeze that counts, and whether it holds now."""
    found = read_freeze(Reader(shelf, shelf.keys_of), gate.admit)  # type: ignore[arg-type]
    return found and (found.reason, found.publisher, found.holds(NOW))


def test_a_command_reads_the_last_that_counts(bench: Bench) -> None:
    """As a node does: what is not believed, and what is junk, is left out."""
    none = read(bench.shelf, trusting())
    say(bench, frozen=True, signer=Signer(OPS))
    say(bench, frozen=False)
    bench.shelf.publish(NAME, b"junk", kind="freeze")

    assert none is None
    assert read(bench.shelf, trusting()) == ("db work", "ops", True)
    assert read(bench.shelf, Gate(None)) == ("db work", "ops@admin", False)


def test_a_command_does_not_guess_what_a_newer_agentd_wrote(bench: Bench) -> None:
    """It is an error, never "not frozen"."""
    bench.shelf.put(bench.shelf.keys_of.message(NAME, 1), b'{"format": 99}')
    bench.shelf.head(NAME, Head("latest", newest=1, oldest=1, count=1, recent=(1,)))
    with pytest.raises(UnknownFormat):
        read(bench.shelf, Gate(None))


def test_a_verifier_may_refuse_all(bench: Bench) -> None:
    """Then nothing counts."""
    say(bench, frozen=True)

    def refuse(_message: Envelope) -> Envelope:
        raise Untrusted("no", "unknown")

    assert read_freeze(Reader(bench.shelf, bench.shelf.keys_of), refuse) is None  # type: ignore[arg-type]
