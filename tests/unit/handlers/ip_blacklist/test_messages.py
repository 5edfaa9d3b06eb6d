"""Messages of the fleet's log: nodes that come to them at other times, and in other ways, end up alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.handler import Event, PermanentError, UnderWay
from agentd.testing import HandlerHarness, event, message
from handlers.ip_blacklist.handler import IPBlacklist
from tests.examples import LOOKS

ISSUED = 1_700_000_000.0
LATE = 300.0
"""Seconds after which everything with a short TTL is over, wherever it was applied."""
LISTS = {"one": b"192.0.2.0/29\n", "two": b"192.0.2.1\n192.0.2.2\n"}
URLS = {name: f"https://lists.example/{name}" for name in LISTS}
DIGESTS = {name: f"{URLS[name]} sha256:{hashlib.sha256(LISTS[name]).hexdigest()}" for name in LISTS}
OPTIONS = {
    "never_block_node": False,
    "lists": {
        "one": {"empty": True, "shrinkage": 0},
        "two": {"empty": True, "shrinkage": 0},
        "feed": {"empty": True, "shrinkage": 0, "reference": URLS["two"], "every": "1h"},
    },
}
ENTRIES = "blacklist/entries.tsv"
blocks = st.builds("192.0.2.{}/{}".format, st.integers(0, 7), st.integers(29, 32))
adds = st.builds("add {}{}".format, blocks, st.sampled_from(["", " 10s", " 10h"]))
lines = st.one_of(
    adds,
    adds,
    st.builds("remove {}".format, blocks),
    st.builds("load {} {}".format, st.sampled_from(sorted(LISTS)), st.sampled_from(sorted(DIGESTS.values()))),
    st.builds("clear {}".format, st.sampled_from(["one", "two", "entries"])),
)
payloads = st.lists(lines, min_size=1, max_size=3).map("\n".join)


def node(now: float = ISSUED) -> HandlerHarness:
    """A node that has started, with nothing blocked."""
    made = HandlerHarness(IPBlacklist, OPTIONS, now=now)
    made.payloads |= {URLS[name]: content for name, content in LISTS.items()}
    made.initial()
    return made


def blocked(harness: HandlerHarness) -> list[str]:
    """The addresses that are blocked of those that tests use."""
    handler, context = harness.handler, harness._attempt()[0]
    assert isinstance(handler, IPBlacklist)
    return [str(n) for n in range(8) if handler.why(f"192.0.2.{n}", context)["blocked"]]


def entries(harness: HandlerHarness) -> list[tuple[str, float | None]]:
    """The entries, each with when it ends."""
    rows = [line.split("\t") for line in harness.files[ENTRIES].decode().splitlines()[1:]]
    return [(row[0], None if row[2] == "-" else float(row[2])) for row in rows]


def told(harness: HandlerHarness) -> list[str]:
    """What was logged."""
    return [line.event for line in harness.log]


@dataclass
class Log:
    """A log of messages, each a relayed event or a published one, a second apart."""

    payloads: Sequence[str]
    relayed: Sequence[bool] = field(default_factory=list)

    def event(self, number: int) -> Event:
        """As it is heard while the log cannot be reached."""
        return event("block", self.payloads[number], id=f"event-{number}", ltime=number + 1, provisional=True)

    def message(self, number: int, counts_from: float | None = None) -> Event:
        """As the log has it."""
        payload, issued = self.payloads[number], ISSUED + number
        return message(
            "block",
            payload,
            num=1000 + number,
            issued=issued,
            counts_from=None if counts_from is None else max(issued, counts_from),
            id=f"event-{number}" if number < len(self.relayed) and self.relayed[number] else None,
            snapshot=payload.startswith("replace"),
        )

    def snapshot(self) -> int:
        """The number of the newest snapshot, 0 if there is none."""
        return max((n for n, text in enumerate(self.payloads) if text.startswith("replace")), default=0)


@given(
    log=st.builds(
        Log,
        st.lists(st.one_of(payloads, payloads, payloads.map("replace\n{}".format)), min_size=1, max_size=6),
        st.lists(st.booleans(), min_size=6, max_size=6),
    ),
    heard=st.permutations(range(6)),
    count=st.integers(0, 6),
    followed=st.integers(0, 6),
    follows=st.booleans(),
    restarts=st.booleans(),
    batch=st.booleans(),
)
@settings(max_examples=LOOKS or 60)
def test_all_nodes_end_up_alike(  # noqa: PLR0913 (what may differ between nodes)
    *,
    log: Log,
    heard: Sequence[int],
    count: int,
    followed: int,
    follows: bool,
    restarts: bool,
    batch: bool,
) -> None:
    """One follows; one hears some of it before the log does, in any order; one joins when all is over."""
    every = range(len(log.payloads))
    straight, other, joiner = node(), node(), node(ISSUED + LATE)
    for number in every:
        straight.advance(ISSUED + number - straight.now)
        straight.handle(log.message(number, straight.now))
    for number in every[:followed]:
        other.handle(log.message(number, ISSUED + number))
    for number in heard[:count]:
        if followed <= number < len(log.payloads) and log.relayed[number]:
            other.handle(log.event(number))
            other.advance(3)
    if restarts:
        other.restart()
        other.initial()
    late = [log.message(number, other.now if follows else None) for number in every[followed:]]
    for some in [late] if batch and late else [[one] for one in late]:
        other.handle(*some)
    joiner.handle(*(log.message(number) for number in every[log.snapshot() :]))

    for one in (straight, other, joiner):
        one.advance(ISSUED + 2 * LATE - one.now)
    assert blocked(other) == blocked(straight) == blocked(joiner)
    assert other.fingerprint() == straight.fingerprint() == joiner.fingerprint()


def test_a_node_that_catches_up_counts_from_the_time_of_issue() -> None:
    """No entry lasts longer there than it was meant to, by its own clock."""
    late = node(ISSUED + 400)
    late.handle(message("block", "add 192.0.2.1 10m", issued=ISSUED))

    assert entries(late) == [("192.0.2.1/32", ISSUED + 600)]


def test_what_is_over_changes_nothing_and_says_so() -> None:
    """A node that was away for longer than the TTL."""
    late = node(ISSUED + 601)
    changed = late.handle(message("block", "add 192.0.2.1 10m\nadd 192.0.2.2 5m", issued=ISSUED))

    assert changed == ()
    assert [line.fields["entries"] for line in late.log if line.event == "blacklist.over"] == [2]


def test_what_is_over_takes_what_it_replaced_with_it() -> None:
    """As on a node that followed: the latest `add` of a CIDR decides when it ends."""
    late = node(ISSUED + 601)
    late.handle(message("block", "add 192.0.2.1"), message("block", "add 192.0.2.1 10m", num=2))

    assert entries(late) == []


@pytest.mark.parametrize("behind", [-3600.0, 3600.0])
def test_nothing_is_dead_on_arrival_at_a_node_that_follows(behind: float) -> None:
    """Neither a slow relay nor a clock that is an hour off costs an entry a part of its time."""
    here = node(ISSUED + behind)
    here.handle(message("block", "add 192.0.2.1 10m", issued=ISSUED, counts_from=max(ISSUED, here.now)))
    here.advance(599)

    assert entries(here)


def test_a_publisher_ahead_does_not_move_the_past() -> None:
    """The entry was added now; its end is the publisher's, also after a restart."""
    here = node(ISSUED)
    here.handle(message("block", "add 192.0.2.1 10m", issued=ISSUED + 300))
    here.restart()
    here.initial()

    assert entries(here) == [("192.0.2.1/32", ISSUED + 900)]


def test_the_time_of_what_was_applied_provisionally_goes_on() -> None:
    """That its event reaches the log later gives it no more time."""
    here = node(ISSUED)
    here.handle(event("block", "add 192.0.2.1 10m", id="a", provisional=True))
    here.advance(500)
    here.handle(message("block", "add 192.0.2.1 10m", id="a", issued=ISSUED + 500, counts_from=here.now))

    assert entries(here) == [("192.0.2.1/32", ISSUED + 600)]


def test_a_removal_is_in_force_at_once_and_stays_where_the_log_puts_it() -> None:
    """It was applied before an `add` that the log has before it."""
    here = node()
    here.handle(event("block", "remove 192.0.2.1", id="b", provisional=True))
    here.handle(message("block", "add 192.0.2.1", num=1), message("block", "remove 192.0.2.1", num=2, id="b"))

    assert entries(here) == []


def test_a_snapshot_replaces_what_events_did() -> None:
    """Entries, lists they loaded, and what they cut out of a feed; the feed itself stays."""
    here = node()
    here.advance(1)
    here.handle(message("block", f"add 192.0.2.7\nload one {URLS['one']}\nremove 192.0.2.2"))
    before = blocked(here)
    here.handle(message("block", "replace\nadd 192.0.2.5", num=2, snapshot=True))

    assert before == ["0", "1", "3", "4", "5", "6", "7"]
    assert blocked(here) == ["1", "2", "5"]


def test_a_snapshot_must_say_all() -> None:
    """Without `replace` a node that has what was before it, and a joiner, would differ for good."""
    with pytest.raises(PermanentError, match="begin it with the line `replace`"):
        node().handle(message("block", "add 192.0.2.5", snapshot=True))


def test_replace_comes_first() -> None:
    """What stands before it would be undone by it."""
    with pytest.raises(PermanentError, match="line 2 'replace': `replace` must be the first line"):
        node().handle(message("block", "add 192.0.2.5\nreplace"))


def test_a_snapshot_spares_what_overtook_it() -> None:
    """It waited for its download while later events were applied."""
    here = node()
    here.advance(1)
    here.tasks.held = True
    snapshot = message("block", f"replace\nadd 192.0.2.0/29\nload one {URLS['one']}", snapshot=True)
    with pytest.raises(UnderWay):
        here.handle(snapshot)
    here.handle(message("block", "remove 192.0.2.2\nadd 192.0.2.7", num=2))
    here.tasks.finish()
    here.handle(snapshot)

    assert blocked(here) == ["0", "1", "3", "4", "5", "6", "7"]


def test_what_a_snapshot_undoes_is_undone_also_if_it_ends_later() -> None:
    """An older message still waited for its download when the snapshot was applied."""
    here = node()
    here.advance(1)
    here.tasks.held = True
    old = message("block", f"add 192.0.2.6\nload one {URLS['one']}\nremove 192.0.2.2")
    with pytest.raises(UnderWay):
        here.handle(old)
    here.handle(message("block", "replace\nadd 192.0.2.7", num=2, snapshot=True))
    here.tasks.finish()
    here.handle(old)

    assert blocked(here) == ["1", "2", "7"]


@pytest.mark.parametrize("line", ["remove 192.0.2.1", "clear entries", "replace", f"load one {URLS['one']}"])
def test_a_message_that_expires_may_only_add(line: str) -> None:
    """A node that comes later never hears of it, and would keep what the others have not."""
    with pytest.raises(PermanentError, match=r"may only `add`.*publish it without --ttl"):
        node().handle(message("block", f"{line}\nadd 192.0.2.5", expires=ISSUED + 60))


def test_what_expires_leaves_as_if_it_had_never_been() -> None:
    """Its entries end with it, and it shortens none that is there."""
    here = node()
    here.handle(message("block", "add 192.0.2.1\nadd 192.0.2.2 30s"))
    lines = "add 192.0.2.1\nadd 192.0.2.2\nadd 192.0.2.3\nadd 192.0.2.4 10s"
    here.handle(message("block", lines, num=2, expires=ISSUED + 60, counts_from=ISSUED + 5))

    assert [end and end - ISSUED for _, end in entries(here)] == [None, 65, 65, 15]


def test_entries_for_good_are_advised_against() -> None:
    """The log forgets a message after a week, and a joiner would not know of them."""
    here = node()
    here.handle(message("block", "add 192.0.2.1 10m"))
    here.handle(event("block", "add 192.0.2.1"))
    before = told(here)
    here.handle(message("block", "add 192.0.2.2\nadd 192.0.2.3", num=2))

    assert before == []
    assert [(line.event, line.fields["entries"]) for line in here.log] == [("blacklist.for_good", 2)]


def test_a_fingerprint_knows_no_times_and_no_feeds() -> None:
    """Two nodes took the same messages at different times; on one of them the feed cannot be reached."""
    first, second = node(), node(ISSUED + 60)
    second.payloads[URLS["two"]] = PermanentError("gone")
    for one in (first, second):
        one.advance(7)
        one.handle(message("block", f"add 192.0.2.1 10m\nload one {URLS['one']}"))

    assert first.fingerprint() == second.fingerprint()
    assert len(first.fingerprint() or "") == 32


@pytest.mark.parametrize("line", ["add 192.0.2.9", "remove 192.0.2.1", f"load two {URLS['one']}", "replace"])
def test_a_fingerprint_knows_everything_else(line: str) -> None:
    """Whatever one message did that another node lacks."""
    first, second = node(), node()
    for one in (first, second):
        one.handle(message("block", f"add 192.0.2.1 10m\nload one {DIGESTS['one']}"))
    second.handle(message("block", line, num=2))

    assert first.fingerprint() != second.fingerprint()


def test_a_body_of_half_a_megabyte() -> None:
    """As many lines as a message can hold, adds and removes, in one commit."""
    here = HandlerHarness(IPBlacklist, {"never_block_node": False}, now=ISSUED)
    here.initial()
    adds = [f"add 198.18.{n // 256}.{n % 256} 1h" for n in range(12_000)]
    removes = [f"remove 198.18.{n // 256}.{n % 256}" for n in range(0, 12_000, 2)]
    payload = "\n".join(["replace", *adds, *removes])
    here.handle(message("block", payload, snapshot=True))

    assert 300_000 < len(payload) < 512 * 1024
    assert len(entries(here)) == 6_000
