"""Feeds on the harness: what is asked when, what of a server is believed, and whose failure is whose."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from agentd.errors import TreeError
from agentd.handler import PermanentError, TemporaryError
from agentd.testing import HandlerHarness, event
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.lists import Lists, Loaded, Version

URL, OTHER = "https://lists.example/one", "https://lists.example/two"
ONE: dict[str, object] = {"reference": URL, "every": "1h"}
TWO: dict[str, object] = {"reference": OTHER, "every": "1h"}


def node(*, held: bool = False, **lists: dict[str, object]) -> HandlerHarness:
    """A node that has started, with these feeds."""
    made = HandlerHarness(IPBlacklist, {"never_block_node": False, "lists": lists or {"one": ONE}})
    made.payloads |= {URL: b"192.0.2.1\n", OTHER: b"192.0.2.2\n"}
    made.tasks.held = held
    made.initial()
    return made


def feed(harness: HandlerHarness, name: str = "one") -> dict[str, Any]:
    """What is stored about it."""
    found: dict[str, Any] = harness.store["feeds"][name]
    return found


def loaded(harness: HandlerHarness) -> list[str]:
    """The lists in force."""
    return sorted(harness.store["lists"])


def later(harness: HandlerHarness, seconds: float = 4000) -> bool:
    """Whether it was fetched whole this time."""
    before = feed(harness)
    harness.advance(seconds)
    assert feed(harness)["checked"] > before["checked"]
    return bool(feed(harness)["full"] > before.get("full", 0.0))


def test_a_slow_feed_holds_up_neither_another_nor_an_event() -> None:
    """What is under way is not waited for."""
    harness = node(held=True, one=ONE, two=TWO)
    under_way = sorted(harness.tasks.under_way)
    harness.tasks.finish("feed two")
    harness.due()
    harness.handle(event("block", "192.0.2.9"))

    assert under_way == ["feed one", "feed two"]
    assert loaded(harness) == ["two"]
    trouble = {part["part"]: part["trouble"] for part in harness.store["status"]}
    assert trouble == {"feed one": "not fetched yet; the download is under way", "feed two": ""}
    assert harness.store["gauges"]["blacklist_feeds_under_way"] == 1
    assert harness.tasks.under_way == ["feed one"]


def test_a_list_that_is_too_long_for_an_output_holds_up_no_other() -> None:
    """It is that feed's failure, also where both came at the same time."""
    options = {"outputs": ["deny"], "most_deny": 5, "lists": {"one": ONE, "two": TWO}}
    harness = HandlerHarness(IPBlacklist, {"never_block_node": False} | options)
    harness.tasks.held = True
    harness.payloads |= {URL: b"".join(b"192.0.2.%d\n" % (2 * n) for n in range(9)), OTHER: b"192.0.2.2\n"}
    harness.initial()
    harness.tasks.finish()
    for _ in range(6):
        with suppress(PermanentError):
            harness.due()

    assert loaded(harness) == ["two"]
    assert feed(harness, "two")["error"] == ""
    assert "9 `deny` lines are more than most_deny, 5" in feed(harness, "one")["error"]
    assert (feed(harness)["failures"], harness.store["refused"]) == (1, {"entries": 1})


def test_a_feed_is_marked_before_it_is_asked() -> None:
    """So that a restart after a kill does not ask again at once, but later and later."""
    harness = node(held=True)
    asked, waits = feed(harness)["asked"], []
    for _ in range(3):
        harness.restart()
        harness.initial()
        waits.append(feed(harness)["next"] - harness.now)
        assert harness.tasks.under_way == []
        harness.advance(waits[-1])

    assert asked == harness.now - sum(waits)
    assert waits[0] >= 60
    assert waits[1] >= 120
    assert waits[2] >= 240
    assert feed(harness)["error"] == "agentd ended while it was being fetched"


@pytest.mark.parametrize("error", [OverflowError("year is out of range"), KeyError("x"), MemoryError()])
def test_whatever_a_fetch_raises_is_the_failure_of_that_feed(error: Exception) -> None:
    """It is told and counted, and the other feed is loaded."""
    harness = node(held=True, one=ONE, two=TWO)
    harness.payloads[URL] = error
    harness.tasks.finish()

    with pytest.raises(PermanentError, match=f"feed one: {type(error).__name__}"):
        harness.due()
    harness.due()

    assert loaded(harness) == ["two"]
    assert harness.store["gauges"]["blacklist_feed_failures"] == 1
    assert harness.store["gauges"]["blacklist_feeds_failing"] == 1
    trouble = {part["part"]: part["trouble"] for part in harness.store["status"]}
    assert trouble["feed one"].startswith(type(error).__name__)
    assert trouble["feed two"] == ""


def test_what_the_compiler_raises_is_the_failure_of_that_feed() -> None:
    """A list that breaks the program that compiles it."""
    harness = node(held=True)
    harness.payloads[URL] = b"192.0.2.1\n" * 30_000
    harness.answer_run(-9, b"out of memory")
    harness.tasks.finish()

    with pytest.raises(PermanentError, match=r"feed one: .*out of memory"):
        harness.due()


def test_a_list_that_cannot_be_staged_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that the disk has no room for: it has failed, and what expires and other feeds go on."""
    harness = node(held=True, one=ONE, two=TWO)
    harness.handle(event("block", "add 192.0.2.9 5s"))
    replace = Lists.replace

    def without_room(lists: Lists, name: str, version: Version, loaded: Loaded) -> None:
        if name == "one":
            raise TreeError("stage blacklist/lists/one.plain: No space left on device")
        replace(lists, name, version, loaded)

    monkeypatch.setattr(Lists, "replace", without_room)
    harness.tasks.finish()
    with pytest.raises(PermanentError, match=r"feed one: stage .*No space left"):
        harness.due()
    harness.now += 10
    harness.due()

    assert loaded(harness) == ["two"]
    assert "192.0.2.9" not in harness.files["blacklist/entries.tsv"].decode()
    assert feed(harness)["failures"] == 1
    assert "No space left" in feed(harness)["error"]


def test_a_wait_that_a_server_asks_for_is_bounded() -> None:
    """At most an hour, whatever it says."""
    harness = node(held=True)
    harness.payloads[URL] = TemporaryError("503", retry_after=1e300)
    harness.tasks.finish()
    with pytest.raises(PermanentError):
        harness.due()

    assert 3600 <= feed(harness)["next"] - harness.now <= 3600 * 1.1


def test_unchanged_is_believed_for_a_day() -> None:
    """Then it is fetched whole, although its server still says that nothing has changed."""
    harness = node()

    whole = [later(harness, 4000) for _ in range(24)]

    assert whole.count(True) == 1
    assert whole.index(True) >= 19


def test_unchanged_is_not_believed_of_what_an_event_loaded() -> None:
    """What the server knows is not about the list in force."""
    harness = node()
    harness.handle(event("block", f"load one {OTHER}"))

    assert later(harness)
    assert harness.files["blacklist/lists/one.plain"] == b"192.0.2.1\n"


def test_unchanged_is_not_believed_of_what_was_cleared() -> None:
    """There is nothing that could be unchanged."""
    harness = node()
    harness.handle(event("block", "clear one"))

    assert later(harness)
    assert loaded(harness) == ["one"]


@pytest.mark.parametrize("option", [{"most_entries": 5}, {"format": "plain"}, {"shortest_ipv4": 9}])
def test_unchanged_is_not_believed_under_other_options(option: dict[str, object]) -> None:
    """The same bytes may be another list, or one that a guard refuses."""
    harness = node()
    harness.restart({"never_block_node": False, "lists": {"one": ONE | option}})
    harness.initial()

    assert later(harness)
    assert not later(harness)


def test_unchanged_is_not_believed_after_the_clock_was_set_back() -> None:
    """How long ago it was fetched whole is not known."""
    harness = node()
    harness.now -= 3 * 86_400
    harness.restart()
    harness.initial()
    before = feed(harness)["full"]
    harness.advance(4000)

    assert feed(harness)["full"] < before


def test_an_event_wins_over_a_fetch_that_began_before_it() -> None:
    """The feed is asked again after its interval."""
    harness = node(held=True)
    harness.handle(event("block", "clear one"))

    assert harness.tasks.under_way == []
    assert loaded(harness) == []
    assert feed(harness)["next"] == harness.now + 3600


def test_what_an_older_agentd_or_a_newer_one_stored_is_read() -> None:
    """Fields that are missing have their defaults, and unknown ones are ignored."""
    harness = node()
    stored = feed(harness)
    del stored["full"], stored["asked"]
    stored["invented"] = 1
    harness.restart()
    harness.initial()

    assert later(harness)
