"""A worker ends the events that its handler says another one makes void."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from agentd.errors import TemporaryError
from agentd.handler import Change, Context, Event
from agentd.journal.followed import Followed
from agentd.journal.history import replay
from agentd.testing import message
from tests.unit.apply.stand import Scribe, Stand, event, settle, state


class Newest(Scribe):
    """Of the events with one name the last in the list counts.

    Attributes:
        asked: the ids of each question.
        attempts: whether each call was the last attempt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.attempts: list[bool] = []

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:
        """See the class."""
        assert context.handler == "scribe"
        self.asked.append([one.id for one in waiting])
        last = {one.name: one.id for one in waiting}
        return {one.id: last[one.name] for one in waiting if one.id != last[one.name]}

    def handle(self, change: Change, context: Context) -> None:
        """Note which attempt it is."""
        self.attempts.append(context.last_attempt)
        super().handle(change, context)


def give(stand: Stand, *messages: Event) -> None:
    """Give the scribe what the fleet's log has."""
    followed = Followed(stand.journal)
    followed.give("deploy", {"scribe": False}, messages, upto=messages[-1].index)


def test_superseded_events_end_as_expired(stand: Stand) -> None:
    """Every one of a batch has its outcome, and the reason names the one that counts."""
    scribe = Newest()
    worker = stand.worker(scribe)
    stand.receive(event("a1", "write x=1"), event("b1", "write y=1", "other"), event("a2", "write x=2"))

    settle(worker)

    assert stand.outcomes == {"a1": "expired", "b1": "applied", "a2": "applied"}
    assert stand.reason("a1") == "superseded by a2"
    assert scribe.calls == ["write y=1", "write x=2"]


def test_what_supersedes_may_be_behind_a_long_backlog(stand: Stand) -> None:
    """The newest events are looked at as well, not only those whose turn is near."""
    scribe = Newest()
    worker = stand.worker(scribe)
    stand.receive(*(event(f"a{number}", f"write x={number}") for number in range(2500)))

    settle(worker)

    assert scribe.calls == ["write x=2499"]
    assert stand.reason("a0") == "superseded by a2499"


def test_what_is_too_old_supersedes_nothing(stand: Stand) -> None:
    """Since it is not handled, nothing would be left of what came before it."""
    worker = stand.worker(Newest(), expire_after=60.0)
    over = stand.clock.now - 1
    give(
        stand,
        message("deploy", "write x=1", num=1, issued=over, id="a1"),
        message("deploy", "write x=2", num=2, issued=over - 10, expires=over, id="a2"),
        message("deploy", "write x=3", num=3, issued=over - 100, id="a3"),
    )

    settle(worker)

    assert stand.outcomes == {"a1": "applied", "a2": "expired", "a3": "expired"}
    assert stand.reason("a2") == "its publisher gave it a time to live, which is over"
    assert stand.reason("a3") == "waited longer than 60 s"


def test_a_newer_event_ends_the_wait_of_one_that_is_retried(stand: Stand) -> None:
    """What failed for now does not hold back what makes it void."""
    scribe = Newest()
    scribe.raises = {"write x=1": [TemporaryError("not now", retry_after=3600)]}
    worker = stand.worker(scribe)
    stand.receive(event("a1", "write x=1"))
    settle(worker)
    stand.receive(event("a2", "write x=2"))

    settle(worker)

    assert stand.outcomes == {"a1": "expired", "a2": "applied"}


def test_a_replay_is_never_superseded(stand: Stand) -> None:
    """Who replays an event wants it."""
    worker = stand.worker(Newest())
    stand.receive(event("a1", "write x=1"), event("a2", "write x=2"))
    settle(worker)
    replay(stand.journal, "a1")

    settle(worker)

    assert stand.outcomes == {"a1": "expired", "a2": "applied", "a1#2": "applied"}
    assert stand.files == {"x": b"1"}


def test_a_message_is_superseded_though_its_event_was_heard_before(stand: Stand) -> None:
    """It has another ID in the journal, as a replay has, but it is the log that gives it."""
    worker = stand.worker(Newest())
    stand.receive(event("a1", "write x=1"))
    settle(worker)
    give(
        stand, message("deploy", "write x=1", num=1, id="a1"), message("deploy", "write x=2", num=2, id="a2")
    )

    settle(worker)

    assert stand.outcomes == {"a1": "applied", "a1#2": "expired", "a2": "applied"}
    assert stand.reason("a1#2") == "superseded by a2"


def test_an_event_that_waits_as_heard_and_as_logged_is_judged_twice(stand: Stand) -> None:
    """One handling may be superseded without the other."""
    scribe = Newest()
    scribe.raises = {"write x=1": [TemporaryError("not now", retry_after=3600)]}
    worker = stand.worker(scribe)
    stand.receive(event("a1", "write x=1"))
    settle(worker)
    give(stand, message("deploy", "write x=1", num=1, id="a1"))

    settle(worker)

    assert stand.outcomes == {"a1": "expired", "a1#2": "applied"}


def test_the_replay_of_a_message_is_never_superseded(stand: Stand) -> None:
    """Whoever replays it wants it, as with an event that was only heard."""
    worker = stand.worker(Newest())
    give(
        stand, message("deploy", "write x=1", num=1, id="a1"), message("deploy", "write x=2", num=2, id="a2")
    )
    settle(worker)
    replay(stand.journal, "a1")

    settle(worker)

    assert stand.outcomes == {"a1": "expired", "a2": "applied", "a1#2": "applied"}


def test_the_handler_is_asked_once_for_the_same_events(stand: Stand) -> None:
    """Events that wait for their retry are judged again only when another comes."""
    scribe = Newest()
    scribe.raises = {"write x=1": [TemporaryError("not now", retry_after=3600)]}
    worker = stand.worker(scribe)
    stand.receive(event("a1", "write x=1"), state("write z=1"))

    settle(worker)
    settle(worker)

    assert scribe.asked == [["a1"]]


def test_an_error_with_no_next_attempt_fails_at_once(stand: Stand) -> None:
    """A `retry_after` of infinity says that another attempt must not be."""
    scribe = Newest()
    scribe.raises = {"write x=1": [TemporaryError("broken for good", retry_after=math.inf)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "write x=1"))

    settle(worker)

    assert stand.outcomes == {"a": "failed"}
    assert stand.reason("a").startswith("broken for good")
    assert stand.files == {}


def test_a_handler_knows_its_last_attempt(stand: Stand) -> None:
    """The attempt after which the change would end as failed, and only that one."""
    scribe = Newest()
    scribe.raises = {"write x=1": [TemporaryError("not now")] * 3}
    worker = stand.worker(scribe, retry={"attempts": 3})
    stand.receive(event("a", "write x=1"))

    for _ in range(3):
        settle(worker)
        stand.clock.now += 100

    assert scribe.attempts == [False, False, True]
    assert stand.outcomes == {"a": "failed"}
