"""Events that are committed together leave what they leave one by one: files, store, outcomes and reasons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.apply.worker import Worker
from agentd.handler import PermanentError
from agentd.journal.history import history
from agentd.testing import HandlerHarness
from agentd.testing import event as fired_event
from handlers.ip_blacklist import enforcement, entries, handler
from handlers.ip_blacklist.handler import IPBlacklist
from tests.examples import LOOKS
from tests.unit.apply.stand import Stand, event, settle
from tests.unit.conftest import ROOM

addresses = st.builds(
    lambda last, prefix: f"198.51.100.{last}/{prefix}", st.integers(0, 63), st.integers(26, 32)
)
networks = st.builds(lambda last: f"2001:db8:0:{last:x}::/64", st.integers(0, 9))
lines = st.one_of(
    st.builds(
        lambda block, ttl: f"add {block}{ttl}", addresses | networks, st.sampled_from(["", " 1m", " 3m"])
    ),
    st.builds(lambda block: f"remove {block}", addresses | networks),
    # Nothing that is only cleared: what that supersedes is not handled at all if it still waits.
    st.sampled_from(["clear entries\nadd 198.51.100.70", "add 127.0.0.1", "nonsense"]),
)
deny = {"outputs": ["deny"], "most_deny": 4}
limits = st.sampled_from([{}, deny, {"most_addresses": 24}, {"most_networks": 3}, {"most_entries": 3}])
payloads = st.lists(st.lists(lines, min_size=1, max_size=3).map("\n".join), min_size=2, max_size=8)


@contextmanager
def node(options: Mapping[str, Any]) -> Iterator[tuple[Stand, Worker]]:
    """A node whose blacklist is empty."""
    with tempfile.TemporaryDirectory(prefix="agentd-", dir=ROOM) as directory:
        stand = Stand(Path(directory))
        made = IPBlacklist(IPBlacklist.Options.model_validate({"never_block_node": False} | dict(options)))
        yield stand, stand.worker(made)
        stand.journal.close()


def sorted_outcomes(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Outcomes and reasons in the order in which the events were fired."""
    return [one for _, one in sorted(known["ended"].items())]


def told(options: Mapping[str, Any], groups: Iterable[Sequence[str]]) -> dict[str, Any]:
    """What is there after these payloads, each group of which waits when the worker looks."""
    with node(options) as (stand, worker):
        number = 0
        for group in groups:
            events = [event(f"e{number + at:02}", payload) for at, payload in enumerate(group)]
            number += len(group)
            stand.receive(*events)
            settle(worker)
        rows = history(stand.journal, limit=1000)
        ended = {row["id"]: (row["outcome"], row["reason"]) for row in rows if row["kind"] == "event"}
        return {"files": stand.files, "store": stand.journal.store("scribe"), "ended": ended}


@given(payloads, limits)
@settings(max_examples=LOOKS or 60, deadline=None)
def test_a_batch_leaves_what_its_events_leave_one_by_one(fired: list[str], options: dict[str, int]) -> None:
    """Also where some of them are refused, for what they are or for what there would be after them."""
    together, apart = told(options, [fired]), told(options, [[one] for one in fired])
    if "applied" not in {outcome for outcome, _ in together["ended"].values()}:
        # In the end all is as it was, so that there was nothing to commit.
        apart["ended"] = {
            one: ("unchanged" if outcome == "applied" else outcome, reason)
            for one, (outcome, reason) in apart["ended"].items()
        }

    assert together == apart


def test_what_an_output_has_no_room_for_is_refused_alone() -> None:
    """The output is made once for all of them; which one was too much shows when each is added by itself."""
    options = {"outputs": ["deny"], "most_deny": 3}
    fired = [f"add 198.51.100.{2 * n}" for n in range(5)]
    told_together = told(options, [fired])

    assert [outcome for outcome, _ in sorted_outcomes(told_together)] == ["applied"] * 3 + ["refused"] * 2
    assert "4 `deny` lines are more than most_deny, 3" in sorted_outcomes(told_together)[3][1]
    assert told_together["files"]["blacklist/deny.rules"].count(b"deny") == 3


def test_what_a_later_event_would_make_fit_is_refused_as_if_it_had_come_alone() -> None:
    """Else a node that catches up would block what others have refused."""
    options = {"outputs": ["deny"], "most_deny": 3}
    fired = [
        "add 198.51.100.1",
        "\n".join(f"add 203.0.113.{2 * n}" for n in range(4)),
        "remove 203.0.113.2\nremove 203.0.113.4\nremove 203.0.113.6",
    ]

    assert told(options, [fired]) == told(options, [[one] for one in fired])


def test_a_few_events_make_no_deny_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there are certainly not too many, they are made once a commit."""
    stage = Mock(wraps=enforcement.stage)
    monkeypatch.setattr(enforcement, "stage", stage)
    with node({"outputs": ["deny"]}) as (stand, worker):
        stand.receive(*(event(f"e{n}", f"add 198.51.100.{2 * n}") for n in range(9)))
        settle(worker)
        stage.reset_mock()
        stand.receive(*(event(f"f{n}", f"remove 198.51.100.{2 * n}") for n in range(9)))
        settle(worker)

    assert stage.call_count == 1


def test_a_batch_begins_without_what_has_expired_since() -> None:
    """Nor does what expired come back with it."""
    with node({}) as (stand, worker):
        stand.receive(event("a", "add 198.51.100.1 1m"), event("b", "add 198.51.100.2"))
        settle(worker)
        stand.clock.now += 61
        stand.receive(event("c", "add 198.51.100.3"), event("d", "add 198.51.100.4 1m"))
        settle(worker)
        held = stand.files["blacklist/ipv4.ranges"]
        stand.clock.now += 61
        settle(worker)

        assert held == b"198.51.100.2-198.51.100.4 1;\n"
        assert stand.files["blacklist/ipv4.ranges"] == b"198.51.100.2-198.51.100.3 1;\n"


def test_timed_work_in_a_batch_sees_what_events_before_it_did() -> None:
    """When something has expired, what is blocked is counted anew."""
    blacklist = HandlerHarness(IPBlacklist, {"never_block_node": False})
    blacklist.initial()
    blacklist.handle(fired_event("block", "add 198.51.100.1 1m"))
    blacklist.now += 61
    context = blacklist._attempt()[0]
    blacklist.handler.handle(fired_event("block", "add 198.51.100.4/30", ltime=2), context)

    blacklist.handler.due(blacklist.now, context)

    assert context.store["covered_by_entries"] == [4, 0]


def test_a_list_between_others_is_judged_by_what_they_have_blocked() -> None:
    """It would be too much beside the entries that the same commit adds, and is refused alone."""
    reference = "https://lists.example/one"
    options = {
        "never_block_node": False,
        "most_addresses": 3,
        "lists": {"one": {"reference": reference, "shrinkage": 0}},
    }
    blacklist = HandlerHarness(IPBlacklist, options)
    blacklist.initial()
    blacklist.payloads[reference] = b"203.0.113.1\n203.0.113.2\n"
    adds = [fired_event("block", f"add 198.51.100.{n}", ltime=n) for n in range(2)]

    with pytest.raises(PermanentError, match="would cover 4 IPv4 addresses"):
        blacklist.handle(*adds, fired_event("block", "load one", ltime=3))
    blacklist.handle(
        adds[0],
        fired_event("block", "load one", ltime=3),
        fired_event("block", "remove 198.51.100.0", ltime=4),
        adds[1],
    )

    assert blacklist.store["covered"] == [3, 0]


def test_a_long_blacklist_is_read_and_written_once_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept in memory from one commit to the next, but while changes are handled it is."""
    monkeypatch.setattr(handler, "_HELD", 1)
    seen = {"load": 0, "dump": 0}

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:  # noqa: ANN401 (whatever it takes and returns)
            seen[name] += 1
            return work(*arguments)

        return count

    with node({}) as (stand, worker):
        stand.receive(*(event(f"a{n}", f"add 198.51.100.{n}") for n in range(5)))
        settle(worker)
        for name in seen:
            monkeypatch.setattr(entries, name, counted(name, getattr(entries, name)))
        blacklist = worker._attempts.handler
        stand.receive(*(event(f"b{n}", f"remove 203.0.113.{n}") for n in range(5)))
        stand.receive(*(event(f"c{n}", f"add 203.0.113.{n}") for n in range(5)))
        worker.step()

        assert seen == {"load": 1, "dump": 1}
        assert isinstance(blacklist, IPBlacklist)
        assert blacklist._read == (b"", {})


def test_what_an_earlier_event_of_the_batch_gave_up_cannot_be_taken_back() -> None:
    """After a change of the options more may be covered than they permit, but not more than just before."""
    options = {"never_block_node": False}
    blacklist = HandlerHarness(IPBlacklist, options)
    blacklist.initial()
    blacklist.handle(fired_event("block", "198.51.100.0/30"))
    blacklist.restart(options | {"most_addresses": 2})
    blacklist.initial()

    with pytest.raises(PermanentError, match="would cover 4 IPv4 addresses"):
        blacklist.handle(
            fired_event("block", "remove 198.51.100.0", ltime=2), fired_event("block", "203.0.113.1", ltime=3)
        )
