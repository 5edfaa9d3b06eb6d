"""Events that overtake one that still downloads: in the end all is as if they had been applied in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import Event, PermanentError, UnderWay
from agentd.testing import HandlerHarness, event, message
from handlers.ip_blacklist import later_events
from handlers.ip_blacklist.handler import IPBlacklist

LISTS = {"one": b"192.0.2.0/31\n", "two": b"192.0.2.1\n192.0.2.2\n"}
ADDRESSES = [f"192.0.2.{n}" for n in range(4)]
OPTIONS = {
    "never_block_node": False,
    "lists": {"one": {"empty": True, "shrinkage": 0}, "two": {"empty": True, "shrinkage": 0}},
}
LINES = st.one_of(
    st.builds("{} 192.0.2.{}".format, st.sampled_from(["add", "remove"]), st.integers(0, 3)),
    st.builds("{} 192.0.2.{}/31".format, st.sampled_from(["add", "remove"]), st.sampled_from([0, 2])),
    st.builds(
        "load {} https://lists.example/{}".format,
        st.sampled_from(sorted(LISTS)),
        st.sampled_from([*LISTS, "gone"]),
    ),
    st.builds("clear {}".format, st.sampled_from([*LISTS, "entries"])),
)


def node(*, held: bool) -> HandlerHarness:
    """A node that has started, with nothing blocked."""
    made = HandlerHarness(IPBlacklist, OPTIONS)
    made.payloads |= {f"https://lists.example/{name}": content for name, content in LISTS.items()}
    made.payloads["https://lists.example/gone"] = PermanentError("no such list")
    made.tasks.held = held
    made.initial()
    return made


def blocked(harness: HandlerHarness) -> tuple[list[str], list[str]]:
    """Which addresses are blocked, and by which entries."""
    handler, context = harness.handler, harness._attempt()[0]
    assert isinstance(handler, IPBlacklist)
    found = [one for one in ADDRESSES if handler.why(one, context)["blocked"]]
    return found, [one["entry"] + one["change"] for one in handler.listed(context)["entries"]]


def hand_over(harness: HandlerHarness, change: Event) -> bool:
    """Whether it has ended, applied or refused; if not, it waits."""
    try:
        harness.handle(change)
    except UnderWay:
        return False
    except PermanentError as error:
        assert str(error) == "no such list"  # noqa: PT017 (as often as not there is none)
    return True


def fired(*lines: str, number: int = 0) -> Event:
    """An event."""
    return event("block", "\n".join(lines), id=f"event-{number}")


@given(
    payloads=st.lists(st.lists(LINES, min_size=1, max_size=3), min_size=1, max_size=5),
    done=st.permutations(range(5)),
    restarts=st.booleans(),
)
def test_the_order_of_arrival_decides(
    *, payloads: Sequence[Sequence[str]], done: Sequence[int], restarts: bool
) -> None:
    """Whenever which download ends, also across a restart."""
    events = [fired(*lines, number=number) for number, lines in enumerate(payloads)]
    straight, waiting = node(held=False), node(held=True)
    for one in events:
        hand_over(straight, one)

    left = [one for one in events if not hand_over(waiting, one)]
    if restarts:
        places = dict(waiting._places)  # the journal keeps the order
        waiting.restart()
        waiting._places = places
        left = [one for one in left if not hand_over(waiting, one)]
    waiting.tasks.finish()
    for number in done:
        if number < len(events) and events[number] in left:
            assert hand_over(waiting, events[number])

    assert blocked(waiting) == blocked(straight)
    assert "overtaking" not in straight.store


@pytest.mark.parametrize(
    "payloads,expected",
    [
        (["load one https://lists.example/one", "remove 192.0.2.1"], ["192.0.2.0"]),
        (["remove 192.0.2.0\nload two https://lists.example/two", "load one https://lists.example/one"], [
            "192.0.2.0", "192.0.2.1", "192.0.2.2",
        ]),
        (["add 192.0.2.1\nload two https://lists.example/two", "remove 192.0.2.0/30"], []),
        (["clear entries\nload two https://lists.example/two", "add 192.0.2.3"], [
            "192.0.2.1", "192.0.2.2", "192.0.2.3",
        ]),
    ],
)  # fmt: skip
def test_a_later_event_is_not_undone(payloads: list[str], expected: list[str]) -> None:
    """The first one's download ends last."""
    harness = node(held=True)
    events = [fired(text, number=number) for number, text in enumerate(payloads)]
    for one in events:
        hand_over(harness, one)
    for number in (1, 0):
        harness.tasks.finish()
        hand_over(harness, events[number])

    assert blocked(harness)[0] == expected


def test_what_was_overtaken_is_not_loaded() -> None:
    """A later load of the same list wins, also over one whose download fails."""
    harness = node(held=True)
    old, new = fired("load one https://lists.example/gone", number=1), fired("clear one", number=2)

    assert not hand_over(harness, old)
    assert hand_over(harness, new)
    harness.tasks.finish()

    assert hand_over(harness, old)
    assert [line.event for line in harness.log] == ["blacklist.overtaken"]


def test_an_event_is_refused_for_a_list_that_was_overtaken() -> None:
    """Else its other lines would be in force only where it was overtaken."""
    harness = node(held=True)
    old = fired("load one https://lists.example/gone\nadd 192.0.2.3", number=1)
    hand_over(harness, old)
    hand_over(harness, fired("clear one", number=2))
    harness.tasks.finish()

    with pytest.raises(PermanentError, match="no such list"):
        harness.handle(old)


def test_records_end_with_what_they_are_for() -> None:
    """Once nothing waits that could undo anything, nothing is recorded."""
    harness = node(held=True)
    slow = fired("load one https://lists.example/one", number=1)
    hand_over(harness, slow)
    hand_over(harness, fired("remove 192.0.2.1", number=2))
    during = len(harness.store["overtaking"])
    harness.tasks.finish()
    hand_over(harness, slow)
    hand_over(harness, fired("add 192.0.2.3", number=3))

    assert during == 1
    assert "overtaking" not in harness.store


@pytest.mark.parametrize(
    "slow,verb",
    [
        ("load one https://lists.example/one", "remove"),
        ("load one https://lists.example/one\nadd 192.0.2.9", "add"),
    ],
)
def test_too_much_to_remember(monkeypatch: pytest.MonkeyPatch, slow: str, verb: str) -> None:
    """An event that was overtaken by more than is remembered is refused if it might undo some of it."""
    monkeypatch.setattr(later_events, "MOST", 2)
    harness = node(held=True)
    older = fired(slow, number=1)
    hand_over(harness, older)
    hand_over(harness, fired(*(f"{verb} 192.0.2.{n}" for n in range(3)), number=2))
    harness.tasks.finish()

    with pytest.raises(PermanentError, match="overtook it while it waited: fire it again"):
        harness.handle(older)
    assert len(harness.store.get("overtaking", ())) <= 2


def test_however_many_entries_overtake_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """It undoes none of them, so that a node which catches up refuses no list for them; a remove counts."""
    monkeypatch.setattr(later_events, "MOST", 2)
    harness = node(held=True)
    slow = fired("load two https://lists.example/two", number=1)
    hand_over(harness, slow)
    hand_over(harness, fired("remove 192.0.2.2", *(f"add 192.0.2.{n}" for n in (0, 3)), number=2))
    hand_over(harness, fired("add 192.0.2.0", number=3))
    harness.tasks.finish()
    harness.handle(slow)
    harness.handle(fired("add 192.0.2.3", number=4))

    assert blocked(harness)[0] == ["192.0.2.0", "192.0.2.1", "192.0.2.3"]
    assert not [key for key in harness.store if key.startswith("overtaking")]


def superseded(*payloads: str) -> dict[int, int]:
    """By number of the event, the number of the one that supersedes it."""
    harness = node(held=True)
    events = [fired(text, number=number) for number, text in enumerate(payloads)]
    found = harness.handler.superseded(events, harness._attempt()[0])
    return {int(old.removeprefix("event-")): int(new.removeprefix("event-")) for old, new in found.items()}


@pytest.mark.parametrize(
    "payloads,found",
    [
        (["load one file:/a", "clear one"], {0: 1}),
        (["clear one", "load one file:/a"], {}),
        (["load one file:/a", "load one file:/b"], {}),
        (["load one file:/a", "clear two"], {}),
        (["load one file:/a\nadd 192.0.2.1", "clear one"], {}),
        (["load one file:/a\nadd 192.0.2.1", "clear one", "clear entries"], {0: 2}),
        (["add 192.0.2.1", "clear entries"], {0: 1}),
        (["remove 192.0.2.1", "clear entries"], {}),
        (["load one file:/a", "clear one\nload two file:/b"], {}),
        (["load one file:/a", "clear one\nnonsense"], {}),
        (["nonsense", "clear one"], {}),
        (["load one file:/a", "clear one", "clear one"], {0: 2, 1: 2}),
    ],
)
def test_a_clear_ends_what_it_undoes(payloads: list[str], found: dict[int, int]) -> None:
    """All lines of the older event must be undone, and the later event must not be one that can fail."""
    assert superseded(*payloads) == found


@pytest.mark.parametrize(
    "payload,more",
    [
        ("clear entries", {"expires": 2_000_000_000.0}),
        ("replace", {"expires": 2_000_000_000.0}),
        ("clear entries", {"snapshot": True}),
    ],
)
def test_a_message_that_is_refused_undoes_nothing(payload: str, more: dict[str, Any]) -> None:
    """One that expires may only add, and a snapshot begins with `replace`."""
    harness = node(held=True)
    waiting = [message("block", "add 192.0.2.1", num=1), message("block", payload, num=2, **more)]

    assert not harness.handler.superseded(waiting, harness._attempt()[0])
