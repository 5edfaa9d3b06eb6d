"""What a node acknowledges is what was seen: of its journal, its handlers, and what speaks against them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from agentd.accounts import Account, Accounts
from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.config.models import HandlerEntry
from agentd.errors import PermanentError
from agentd.fleet.acknowledgement import Name, Tried
from agentd.fleet.condition import Condition, Inspector, least
from agentd.handler import Handler
from agentd.journal.drift import Drifts
from agentd.journal.entry import Ending, Outcome
from agentd.journal.followed import Followed
from agentd.verdict import Drift
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle
from tests.unit.apply.test_numbers import message


class Inspected:
    """A scribe that takes the name `block` and is proved by `nginx`, and what is to be said of them."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.handler, self.proof = Scribe(), Prover()
        self.prover = stand.worker(self.proof, "nginx")
        self.worker = stand.worker(self.handler, provers=["nginx"], notify=["nginx"])
        self.accounts = Accounts(lambda: None)
        self.damage = self.down = ""
        handlers = (_configured("scribe", self.handler, notify=["nginx"]), _configured("nginx", self.proof))
        self.inspector = Inspector(
            handlers,
            stand.journal,
            self.accounts,
            lambda: stand.tree.current,
            lambda: self.damage,
            lambda: self.down,
        )

    def look(self) -> Condition:
        """What is the case."""
        return self.inspector.look()

    @property
    def name(self) -> Name:
        """How far it is with `block`."""
        return self.look().names["block"]

    def apply(self, num: int, payload: str) -> None:
        """Let a message come, and be proved."""
        self.stand.receive(message(num, payload))
        settle(self.worker)
        settle(self.prover)

    def tell(self, fingerprint: str) -> None:
        """Let the handler tell it of what is committed now."""
        revision = self.stand.committer.commits.revision("scribe")
        self.accounts.put("scribe", Account(revision, fingerprint, place="5e"), 1000.0)


def _configured(name: str, handler: Handler, **entry: Any) -> ConfiguredHandler:  # noqa: ANN401 (of HandlerEntry)
    on = (OnEvent(event="block", keep="all"),) if isinstance(handler, Scribe) else ()
    return ConfiguredHandler(
        name, HandlerEntry(use="tests:x", on=on, **entry), type(handler), handler.options
    )


def test_a_node_that_heard_nothing_takes_the_name(stand: Stand) -> None:
    """So that it counts among those that are to take a message."""
    inspected = Inspected(stand)

    found = inspected.look()

    assert found.names == {"block": Name()}
    assert found.handlers["scribe"].names == ("block",)
    assert found.handlers["nginx"].names == ()


def test_what_is_proved_is_live_and_may_be_compared(stand: Stand) -> None:
    """With what the handler told of just that."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    inspected.tell("aa")

    found = inspected.look()

    assert found.names == {"block": Name(live=5, tried=Tried(5, "applied"))}
    assert found.handlers["scribe"].fingerprint == "aa"
    assert found.handlers["scribe"].past == f"5e/{sha256(b'aa').hexdigest()[:6]}/1000"
    assert (found.handlers["scribe"].outcome, found.generation) == ("applied", stand.tree.current)


def test_what_is_not_proved_is_neither_live_nor_compared(stand: Stand) -> None:
    """The number before it stays."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    stand.receive(message(6, "write A=2"))
    settle(inspected.worker)
    inspected.tell("bb")

    found = inspected.look()

    assert found.names == {"block": Name(live=5, tried=Tried(6))}
    assert found.handlers["scribe"].fingerprint is None


def test_what_was_told_of_something_earlier_is_not_compared(stand: Stand) -> None:
    """Until the handler was asked again."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    inspected.tell("aa")
    inspected.apply(6, "write A=2")

    assert inspected.name.live == 6
    assert inspected.look().handlers["scribe"].fingerprint is None


def test_a_refusal_says_why(stand: Stand) -> None:
    """Beside what stays live."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    inspected.handler.raises["write A=2"] = [PermanentError("not an address")]

    inspected.apply(6, "write A=2")

    assert inspected.name == Name(live=5, tried=Tried(6, "refused", "not an address"))


def test_what_was_refused_is_told_beside_what_was_applied_later(stand: Stand) -> None:
    """Until it is tried again with success: somebody may still wait for it."""
    inspected = Inspected(stand)
    inspected.handler.raises["write A=1"] = [PermanentError("not an address")]
    inspected.apply(5, "write A=1")

    inspected.apply(6, "write A=2")
    told = inspected.name
    stand.receive(replace(message(5, "write A=1"), raw=message(5, "write A=1").raw | {"ID": "block-5#2"}))
    settle(inspected.worker)
    settle(inspected.prover)

    assert (told.live, told.tried) == (6, Tried(6, "applied"))
    assert told.failed == (Tried(5, "refused", "not an address"),)
    assert inspected.name.failed == ()


def test_a_message_that_another_stands_for_did_not_fail(stand: Stand) -> None:
    """What a deploy skips for a newer one is over, like what `latest` never fetched."""
    inspected = Inspected(stand)
    for num, ends in ((5, "superseded by block-6"), (6, "waited longer than 9 s")):
        stand.receive(message(num, "write A=1"))
        waiting = stand.journal.pending("scribe")
        stand.journal.end([Ending(entry, Outcome.EXPIRED, ends) for entry in waiting])

    inspected.apply(7, "write A=2")

    assert inspected.name.failed == (Tried(6, "expired", "waited longer than 9 s"),)


def test_who_joined_later_is_exempt_from_what_runs_once(stand: Stand) -> None:
    """A `command` that did not run for an old message has not failed."""
    inspected = Inspected(stand)
    Followed(stand.journal).give("block", {"scribe": True}, [message(5, "write A=1")], 5)

    tried = inspected.name.tried

    assert tried is not None
    assert (tried.num, tried.outcome) == (5, "exempt")


def test_without_nginx_the_number_is_live_and_the_reason_says_so(stand: Stand) -> None:
    """It reads the generation when it starts."""
    inspected = Inspected(stand)
    inspected.proof.verdicts = ["nginx is not running"]

    inspected.apply(5, "write A=1")

    assert inspected.name == Name(live=5, tried=Tried(5, "applied", "committed; nginx is not running"))


def test_drift_of_the_handler_lowers_live(stand: Stand) -> None:
    """Nothing of it is known to be in force; when it is gone, the number is back."""
    inspected, drifts = Inspected(stand), Drifts(stand.journal)
    inspected.apply(5, "write A=1")
    drifts.record("scribe", [Drift("ipset", "it is gone"), Drift("nft", "too")])

    during = inspected.look()
    drifts.record("scribe", [])

    why = "ipset: it is gone (and 1 more)"
    assert during.names == {"block": Name(tried=Tried(5, "applied", why))}
    assert during.handlers["scribe"].drift == why
    assert inspected.name.live == 5


def test_drift_of_what_proves_lowers_live(stand: Stand) -> None:
    """A worker of nginx that serves an older generation."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")

    Drifts(stand.journal).record("nginx", [Drift("nginx", "pid 7 serves generation 1")])

    assert inspected.name == Name(tried=Tried(5, "applied", "nginx: pid 7 serves generation 1"))


def test_a_damaged_tree_lowers_live(stand: Stand) -> None:
    """And it is told of the node as a whole."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    inspected.damage = "A is missing"

    assert inspected.name.live is None
    assert inspected.look().drift == {"tree": "A is missing"}


def test_a_rollback_lowers_live_at_once_and_gives_the_old_number_when_proved(stand: Stand) -> None:
    """Between the two nobody knows which generation is served."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    generation = stand.tree.current
    inspected.apply(6, "write A=2")

    stand.committer.roll_back(generation, "by hand", ["nginx"])
    between = inspected.name
    settle(inspected.prover)

    waits = "rolled back to an earlier generation, which is not proved yet"
    assert between == Name(tried=Tried(6, "applied", waits))
    assert inspected.name == Name(live=5, tried=Tried(6, "applied", "it was rolled back"))


def test_events_that_the_log_does_not_have_yet_are_counted(stand: Stand) -> None:
    """They were applied as they were heard."""
    inspected = Inspected(stand)
    followed = Followed(stand.journal)
    followed.join("scribe", "block")

    followed.give_provisionally(["scribe"], event("e-1", "write A=1", "block"))

    assert inspected.name.provisional == 1


def test_of_several_handlers_the_one_least_far_counts() -> None:
    """A name is in force once all have it."""
    ahead = Name(live=7, tried=Tried(7, "applied"), provisional=1)
    behind = Name(live=5, tried=Tried(7, "refused", "no"), incomplete_since=3)

    assert least([ahead, behind]) == Name(5, Tried(7, "refused", "no"), 1, 3)
    assert least([ahead, Name()]) == Name(None, Tried(7, "applied"), 1)


def test_a_handler_that_is_exempt_speaks_for_no_other() -> None:
    """A name that a blacklist has in force, and for which a command of a joiner does not run."""
    exempt = Name(tried=Tried(6, "exempt"))
    assert least([exempt, Name(live=6, tried=Tried(6, "applied"))]) == Name(live=6, tried=Tried(6, "applied"))
    refused = Name(live=4, tried=Tried(6, "refused"))
    assert least([exempt, refused]) == refused
    assert least([exempt]) == exempt


def test_of_several_handlers_each_failure_is_told() -> None:
    """What one refused is not in force, though another has it."""
    refused = Name(live=6, tried=Tried(6, "applied"), failed=(Tried(5, "refused"),))
    found = least([Name(live=6, tried=Tried(6, "applied"), failed=(Tried(3, "failed"),)), refused])
    assert [one.num for one in found.failed] == [5, 3]


def test_what_nobody_serves_stays_in_force_and_is_told(stand: Stand) -> None:
    """Nginx reads it when it starts."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    inspected.down = "nginx is not running"

    found = inspected.look()

    assert (found.names["block"].live, found.not_served) == (5, "nginx is not running")


def test_it_is_worked_out_anew_only_if_there_is_something_new(stand: Stand) -> None:
    """The acknowledger looks every few seconds, and most of the time nothing has moved."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    first = inspected.look()

    assert inspected.look() is first


@pytest.mark.parametrize("what", ["drift", "damage", "down", "account", "rollback"])
def test_whatever_speaks_against_it_is_seen_at_the_next_look(stand: Stand, what: str) -> None:
    """Some of it is in no journal."""
    inspected = Inspected(stand)
    inspected.apply(5, "write A=1")
    first = inspected.look()

    if what == "drift":
        Drifts(stand.journal).record("scribe", [Drift("A", "gone")])
    elif what == "damage":
        inspected.damage = "A is gone"
    elif what == "down":
        inspected.down = "nginx is not running"
    elif what == "account":
        inspected.tell("f1")
    else:
        stand.committer.roll_back(1, "by hand", ["nginx"])

    assert inspected.look() != first


def test_options_tell_apart_what_is_not_alike(stand: Stand) -> None:
    """What a handler is given, and what it makes of it; not who is notified."""
    one = _configured("a", Scribe(), notify=["x"])
    inspectors = [
        Inspector((handler,), stand.journal, Accounts(lambda: None), lambda: 1, str, str)
        for handler in (one, _configured("a", Scribe()), _configured("a", Scribe(), options={"b": 1}))
    ]

    same, also, other = (one.look().options["a"] for one in inspectors)

    assert same == also
    assert same != other
