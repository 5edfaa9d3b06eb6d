"""A worker ends what waits of a rollout for nothing: what was aborted meanwhile, and what has run already."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Event
from agentd.journal.followed import Followed
from agentd.journal.numbers import Numbers
from agentd.watch.changes import Message
from tests.unit.apply.stand import Scribe, Stand, event, settle, step


class Once(Scribe):
    """As a command."""

    side_effects: ClassVar[bool] = True
    runs_once: ClassVar[bool] = True


def message(num: int, payload: str, rollout: str = "r1", restores: int = 0) -> Event:
    """A message of a rollout; of none if that is ""."""
    said = Message(num, 2e9, 2e9, rollout=rollout, restores=restores)
    heard = event(f"m{num}", payload)
    return replace(heard, query="log:deploy", raw=heard.raw | {"Message": said.raw}, index=num)


def give(stand: Stand, *messages: Event, once: bool = True) -> None:
    """Queue them as the follower does."""
    for one in messages:
        Followed(stand.journal).give("deploy", {"scribe": once}, [one], one.index, latest=True)


def live(stand: Stand) -> int | None:
    """The number in force."""
    return Numbers(stand.journal.database).live("scribe").get("deploy")


@pytest.fixture
def once() -> Once:
    """The handler."""
    return Once()


@pytest.mark.parametrize("runs_once", [True, False])
def test_what_was_aborted_before_its_turn_is_not_begun(stand: Stand, *, runs_once: bool) -> None:
    """A node that was paused meanwhile; a command does not repeat what it restores, either."""
    handler = Once() if runs_once else Scribe()
    worker = stand.worker(handler)
    give(stand, message(1, "run true;old", ""), once=runs_once)
    settle(worker)
    give(stand, message(2, "run true;new"), message(3, "run true;new"), once=runs_once)
    give(stand, message(4, "run true;old", restores=1), once=runs_once)
    settle(worker)
    assert handler.calls == ["run true;old"] * (1 if runs_once else 2)
    assert stand.reason("m2") == stand.reason("m3") == "superseded by m4"
    assert live(stand) == 4


def test_what_was_begun_is_taken_back(stand: Stand, once: Once) -> None:
    """It failed, and waits for its next attempt: the abort ends that, and runs."""
    worker = stand.worker(once)
    once.raises["run true;new"] = [TemporaryError("not yet")]
    give(stand, message(1, "run true;old", ""))
    settle(worker)
    give(stand, message(2, "run true;new"))
    step(worker)
    give(stand, message(3, "run true;old", restores=1))
    settle(worker)
    assert once.calls == ["run true;old", "run true;new", "run true;old"]
    assert stand.reason("m2") == "superseded by m3, after it was begun"
    assert live(stand) == 3


def test_a_step_that_comes_while_the_one_before_runs_counts_once_that_has(stand: Stand, once: Once) -> None:
    """It does not run again, and its number is in force."""
    worker = stand.worker(once)
    once.raises["run true;new"] = [TemporaryError("not yet")]
    give(stand, message(2, "run true;new"))
    step(worker)
    give(stand, message(3, "run true;new"), message(4, "run true;new"))
    assert stand.outcomes == {"m2": None, "m3": None, "m4": None}
    for _ in range(20):
        stand.clock.now += step(worker)
    assert once.calls == ["run true;new"] * 2
    assert stand.outcomes == {"m2": "applied", "m3": "unchanged", "m4": "unchanged"}
    assert live(stand) == 4


def test_a_step_that_comes_while_the_one_before_fails_is_refused(stand: Stand, once: Once) -> None:
    """As one that comes later; the reason says what helps."""
    worker = stand.worker(once)
    once.raises["run true;new"] = [TemporaryError("not yet"), PermanentError("never")]
    give(stand, message(2, "run true;new"))
    step(worker)
    give(stand, message(3, "run true;new"))
    for _ in range(20):
        stand.clock.now += step(worker)
    assert stand.outcomes == {"m2": "refused", "m3": "refused"}
    assert "`agentd replay`" in stand.reason("m3")
    assert live(stand) is None


def test_another_rollout_that_waits_behind_an_aborted_one_runs(stand: Stand, once: Once) -> None:
    """Only what was aborted is left out."""
    worker = stand.worker(once)
    give(stand, message(1, "run true;old", ""))
    settle(worker)
    give(stand, message(2, "run true;new"), message(3, "run true;old", restores=1))
    give(stand, message(4, "run true;newer", "r2"), message(5, "run true;newer", "r2"))
    settle(worker)
    assert once.calls == ["run true;old", "run true;newer"]
    assert live(stand) == 5


def test_what_was_rolled_back_is_not_said_to_be_in_force(stand: Stand) -> None:
    """The next step names it, and what helps."""
    once = Once()
    worker = stand.worker(once)
    give(stand, message(1, "write a=1", ""))
    settle(worker)
    give(stand, message(2, "write a=2"))
    settle(worker)
    stand.committer.roll_back(stand.tree.current - 1, "by hand", [], check=False)
    give(stand, message(3, "write a=2"))
    settle(worker)
    assert stand.outcomes["m3"] == "refused"
    assert "`agentd replay` runs it again" in stand.reason("m3")
    assert live(stand) == 1
