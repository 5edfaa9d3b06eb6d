"""The watch over a lock that is held, look by look."""

from __future__ import annotations

import pytest

from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.fleet.claim import Look
from agentd.fleet.vigil import Vigil
from tests.unit.fleet.fake import FakeStore
from tests.unit.fleet.scripted import Clock, ScriptedClaim

HELD = Look(taken=True, index=7)


class Watched:
    """A vigil with a script, a clock, and what it told."""

    def __init__(self, store: FakeStore, *script: Look | AgentdError) -> None:
        self.reasons: list[str] = []
        self.claim = ScriptedClaim(Clock(), list(script))
        self.vigil = Vigil(self.claim, store, "ours", 10.0, self.reasons.append, clock=self.claim.clock)
        self.vigil._over.wait = self._pause  # type: ignore[method-assign] # a pause passes no time here

    def _pause(self, timeout: float | None = None) -> bool:
        self.claim.clock.now += timeout or 0
        return False

    def run(self, looks: int) -> list[int]:
        """Look so often; return the indexes."""
        indexes = [0]
        for _ in range(looks):
            indexes.append(self.vigil.look(indexes[-1]))
        return indexes


def test_held_lock_is_watched_by_its_index(store: FakeStore) -> None:
    """The next look blocks until there is news."""
    watched = Watched(store, HELD)
    assert watched.run(2) == [0, 7, 7]
    assert watched.reasons == []


def test_index_that_went_back_is_started_over(store: FakeStore) -> None:
    """As after servers were restored from a snapshot."""
    assert Watched(store, HELD, Look(taken=True, index=3), HELD).run(2) == [0, 7, 0]


def test_loss_is_told_once(store: FakeStore) -> None:
    """The key is another's."""
    watched = Watched(store, HELD, Look(index=8))
    watched.run(3)
    assert watched.reasons == ["its key was released, deleted or taken over"]


@pytest.mark.parametrize("error", [ConsulUnavailable("no leader"), ConsulRefused("Permission denied")])
def test_blindness_is_borne_for_a_while(store: FakeStore, error: AgentdError) -> None:
    """Ten seconds here: then nobody knows whose the lock is."""
    watched = Watched(store, HELD, error)
    watched.run(9)
    assert watched.reasons == []
    watched.run(5)
    assert len(watched.reasons) == 1
    assert "could not be watched for 10 s" in watched.reasons[0]


def test_sight_regained_starts_the_patience_anew(store: FakeStore) -> None:
    """Two short outages are not one long."""
    away = [ConsulUnavailable("no leader")] * 8
    watched = Watched(store, *away, HELD, *away, HELD)
    watched.run(18)
    assert watched.reasons == []


def test_ended_vigil_says_nothing(store: FakeStore) -> None:
    """What it sees after the release is not a loss."""
    watched = Watched(store, Look(index=8))
    watched.vigil.end()
    watched.run(1)
    assert watched.reasons == []
    assert store.closed
