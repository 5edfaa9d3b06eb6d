"""The watch over a lock that is held, look by look."""

from __future__ import annotations

import pytest

from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.locks.kind import LockState
from agentd.locks.monitor import Monitor
from tests.unit.locks.fake import FakeStore
from tests.unit.locks.scripted import Clock, ScriptedKind

HELD = LockState(taken=True, index=7)


class Watched:
    """A monitor with a script, a clock, and what it told."""

    def __init__(self, store: FakeStore, *script: LockState | AgentdError) -> None:
        self.reasons: list[str] = []
        self.kind = ScriptedKind(Clock(), list(script))
        self.monitor = Monitor(self.kind, store, "ours", 10.0, self.reasons.append, clock=self.kind.clock)
        self.monitor._over.wait = self._pause  # type: ignore[method-assign] # a pause passes no time here

    def _pause(self, timeout: float | None = None) -> bool:
        self.kind.clock.now += timeout or 0
        return False

    def run(self, looks: int) -> list[int]:
        """LockState so often; return the indexes."""
        indexes = [0]
        for _ in range(looks):
            indexes.append(self.monitor.look(indexes[-1]))
        return indexes


def test_held_lock_is_watched_by_its_index(store: FakeStore) -> None:
    """The next look blocks until there is news."""
    watched = Watched(store, HELD)
    assert watched.run(2) == [0, 7, 7]
    assert watched.reasons == []


def test_index_that_went_back_is_started_over(store: FakeStore) -> None:
    """As after servers were restored from a snapshot."""
    assert Watched(store, HELD, LockState(taken=True, index=3), HELD).run(2) == [0, 7, 0]


def test_loss_is_told_once(store: FakeStore) -> None:
    """The key is another's."""
    watched = Watched(store, HELD, LockState(index=8))
    watched.run(3)
    assert watched.reasons == ["its key was released, deleted or taken by another session"]


@pytest.mark.parametrize("error", [ConsulUnavailable("no leader"), ConsulRefused("Permission denied")])
def test_blindness_is_borne_for_a_while(store: FakeStore, error: AgentdError) -> None:
    """Ten seconds here: then nobody knows whose the lock is."""
    watched = Watched(store, HELD, error)
    watched.run(9)
    assert watched.reasons == []
    watched.run(5)
    assert len(watched.reasons) == 1
    assert "did not answer for 10 s" in watched.reasons[0]


def test_sight_regained_starts_the_patience_anew(store: FakeStore) -> None:
    """Two short outages are not one long."""
    away = [ConsulUnavailable("no leader")] * 8
    watched = Watched(store, *away, HELD, *away, HELD)
    watched.run(18)
    assert watched.reasons == []


def test_ended_vigil_says_nothing(store: FakeStore) -> None:
    """What it sees after the release is not a loss."""
    watched = Watched(store, LockState(index=8))
    watched.monitor.end()
    watched.run(1)
    assert watched.reasons == []
    assert store.closed
