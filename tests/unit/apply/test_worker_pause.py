"""A paused handler takes nothing new; all of it waits, in order, and the rest of its work goes on."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.apply.worker import IDLE, Worker
from agentd.errors import JournalError, TemporaryError
from agentd.handler import Context, Handler, Notification
from agentd.journal.history import history
from agentd.journal.summary import summary
from tests.unit.apply.stand import Scribe, Stand, Verifier, event, settle, state, step


class Timed(Scribe):
    """A scribe with timed work, and events of which the newest counts."""

    dues: ClassVar[int] = 0

    def due(self, now: float, context: Context) -> float | None:
        """Write when it was."""
        type(self).dues += 1
        context.files.write("due", str(now).encode())
        return now + 10


def pause(stand: Stand, seconds: float | None = None) -> None:
    """As the command does."""
    stand.pauses.pause(["scribe"], "db work", seconds)


def test_what_arrives_waits_in_order_and_goes_on_in_one_commit(stand: Stand) -> None:
    """Nothing is lost, and the history says why it waits."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    pause(stand)
    stand.receive(event("a", "write x=1"))
    step(worker)
    stand.receive(event("b", "write x=2"), event("c", "write y=3"))
    settle(worker)
    before, told = stand.tree.current, stand.reason("b")
    stand.pauses.resume(["scribe"])
    settle(worker)

    assert told == "paused since 2023-11-14T22:13:20Z: db work"
    assert scribe.calls == ["write x=1", "write x=2", "write y=3"]
    assert stand.tree.current == before + 1
    assert stand.files == {"x": b"2", "y": b"3"}


def test_the_newest_state_counts_after_a_pause(stand: Stand) -> None:
    """The states before it were replaced, and are not handled."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    pause(stand)
    for number in range(1, 6):
        stand.receive(state(f"write x={number}", number))
        settle(worker)
    waiting = stand.journal.backlog()["scribe"]
    stand.pauses.resume(None)
    settle(worker)

    assert waiting <= 2
    assert scribe.calls == ["write x=5"]


def test_a_failed_state_is_not_tried_again_meanwhile(stand: Stand) -> None:
    """It is what somebody wants to keep from being applied."""
    scribe = Scribe()
    scribe.raises = {"write x=1": [TemporaryError("no")]}
    worker = stand.worker(scribe)
    stand.receive(state("write x=1"))
    step(worker)
    pause(stand)
    stand.clock.now += 3600
    settle(worker)
    during = len(scribe.calls)
    stand.pauses.resume(None)
    settle(worker)

    assert (during, scribe.calls) == (1, ["write x=1"] * 2)
    assert stand.files == {"x": b"1"}


def test_timed_work_goes_on(stand: Stand) -> None:
    """Keys that expire, and entries whose time is over, do so in a pause as well."""
    worker = stand.worker(Timed())
    settle(worker)
    pause(stand)
    stand.receive(event("a", "write x=1"))
    settle(worker)
    stand.clock.now += 30
    settle(worker)

    assert stand.files == {"due": str(stand.clock.now).encode()}
    assert stand.outcomes == {"a": None}


def test_what_is_in_effect_is_verified_in_a_pause(stand: Stand) -> None:
    """Drift is seen, and mended."""
    verifier = Verifier()
    worker = stand.worker(verifier)
    settle(worker)
    pause(stand)
    before = len(verifier.asked)
    stand.clock.now += 3600
    settle(worker)

    assert len(verifier.asked) > before


def test_notifications_go_on(stand: Stand) -> None:
    """Otherwise no timed work of others, and no rollback, could be reloaded and proved."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    pause(stand)
    raw = {"id": "n1", "generation": 1, "by": "other", "paths": [], "rollback": False}
    stand.receive(event("a", "write x=1"))
    stand.journal.queue("scribe", Notification("notify", raw))
    settle(worker)

    assert scribe.calls == ["notification n1"]
    assert stand.outcomes == {"a": None}


def test_it_ends_by_itself(stand: Stand) -> None:
    """After the time that was given, whatever is still written down."""
    worker = stand.worker(Scribe())
    pause(stand, seconds=60)
    stand.receive(event("a", "write x=1"))
    settle(worker)
    before = dict(stand.outcomes)
    stand.clock.now += 60
    settle(worker)

    assert (before, stand.outcomes) == ({"a": None}, {"a": "applied"})


def test_a_pause_outlives_the_daemon(stand: Stand) -> None:
    """And what waits, too."""
    stand.worker(Scribe())
    pause(stand)
    stand.receive(event("a", "write x=1"))
    stand.restart()
    scribe = Scribe()
    worker = stand.worker(scribe)
    settle(worker)
    during = list(scribe.calls)
    stand.pauses.resume(None)
    stand.restart()
    worker = stand.worker(scribe)
    settle(worker)

    assert (during, scribe.calls) == ([], ["write x=1"])


def test_who_resumes_without_a_daemon_leaves_no_trace(stand: Stand) -> None:
    """What waits for something else afterwards does not claim to be paused."""
    scribe = Scribe()
    scribe.raises = {"write x=1": [TemporaryError("no", retry_after=50)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "write x=1"), event("b", "write x=2"))
    step(worker)
    pause(stand)
    step(worker)
    stand.pauses.resume(None)
    stand.restart()
    step(stand.worker(Scribe()))

    assert not any("paused" in row["reason"] for row in history(stand.journal))


def test_a_pause_stops_no_clock(stand: Stand) -> None:
    """What is too old when the handler resumes ends as expired."""
    scribe = Scribe()
    worker = stand.worker(scribe, expire_after=60)
    pause(stand)
    stand.receive(event("old", "write x=1"))
    stand.clock.now += 61
    stand.receive(event("new", "write y=1"))
    stand.pauses.resume(None)
    settle(worker)

    assert stand.outcomes == {"old": "expired", "new": "applied"}


def test_a_pause_holds_and_ends_although_nothing_can_be_written(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is only a note; it is taken away once that is possible."""
    scribe = Scribe()
    scribe.raises = {"write x=1": [TemporaryError("no", retry_after=50)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "write x=1"))
    step(worker)
    pause(stand)
    step(worker)

    def full(*_: object) -> None:
        raise JournalError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(stand.journal, "hold", full)
        held = worker.step()
        stand.pauses.resume(None)
        worker.step()
        noted = stand.reason("a")
    worker.step()

    assert held is not None
    assert noted.startswith("paused since")
    assert stand.reason("a") == ""
    assert worker.paused is None


def test_a_pause_shows_in_the_summary_and_to_the_observer(stand: Stand) -> None:
    """For status, /readyz and the metrics."""
    worker = stand.worker(Scribe())
    settle(worker)
    pause(stand)
    stand.receive(event("a", "write x=1"))
    settle(worker)
    behind = summary(stand.journal, ["scribe"])["scribe"]["behind"]
    since = worker.paused and worker.paused.since
    stand.pauses.resume(None)
    settle(worker)

    assert behind["reason"] == "paused since 2023-11-14T22:13:20Z: db work"
    assert since == stand.clock.now
    assert stand.paused_since == [None, stand.clock.now, None]
    assert worker.paused is None


def test_a_paused_worker_may_end(stand: Stand) -> None:
    """What waits does not hold up a stop of the daemon, nor a reload of its configuration."""
    worker = stand.worker(Scribe())
    pause(stand)
    stand.receive(event("a", "write x=1"))
    found = worker.step()

    assert found is not None
    assert (found.held, found.seconds <= IDLE) == (False, True)


def test_a_long_pause_reads_nothing_that_waits(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand waiting changes are not parsed every second."""
    worker = stand.worker(Scribe())
    pause(stand)
    stand.receive(*(event(f"e{number}", "write x=1") for number in range(100)))
    settle(worker)

    def fail(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(stand.journal, "pending", fail)
    settle(worker)
    assert set(stand.outcomes.values()) == {None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["event", "state", "pause", "resume", "step", "restart"]), max_size=25))
def test_nothing_is_lost_or_reordered_and_nothing_taken_in_a_pause(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Whenever somebody pauses and resumes."""
    stand = Stand(tmp_path_factory.mktemp("pause"))
    scribe: Handler = Scribe()
    worker: Worker = stand.worker(scribe)
    calls: list[str] = []
    events: list[str] = []
    number, paused = 0, False
    for step_ in [*steps, "resume", "step"]:
        match step_:
            case "event":
                number += 1
                events.append(f"write e{number}={number}")
                stand.receive(event(f"id{number}", events[-1]))
            case "state":
                number += 1
                stand.receive(state(f"write s={number}", number))
            case "pause" | "resume":
                paused = step_ == "pause"
                (stand.pauses.pause(["scribe"], "", None) if paused else stand.pauses.resume(None))
            case "step":
                settle(worker)
            case "restart":
                stand.restart()
                worker = stand.worker(scribe)
        assert isinstance(scribe, Scribe)
        assert not (paused and scribe.calls)
        calls += scribe.calls
        scribe.calls.clear()
    assert [call for call in calls if call.startswith("write e")] == events
    stand.journal.close()
