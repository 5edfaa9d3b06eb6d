"""A session's life: renewed at half time, given up in time."""

from __future__ import annotations

import pytest

from agentd.errors import ConsulUnavailable
from agentd.locks.session import Session
from tests.unit.locks.fake import FakeConsul, FakeStore
from tests.unit.locks.scripted import Clock


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def reasons() -> list[str]:
    """Why the session was lost."""
    return []


@pytest.fixture
def session(store: FakeStore, clock: Clock, reasons: list[str]) -> Session:
    """A session of 10 s whose thread does not run: the test renews."""
    return Session(store, "test", 10.0, "release", reasons.append, clock=clock)


def test_session_is_renewed_at_half_its_ttl(session: Session) -> None:
    """The next time is five seconds on."""
    assert session.renew() == 5.0


def test_session_that_consul_ended_is_lost_at_once(
    session: Session, consul: FakeConsul, reasons: list[str]
) -> None:
    """A 404 leaves no doubt."""
    consul.invalidate(session.id)
    session.renew()
    assert session.lost
    assert reasons == ["Consul has ended the session (its TTL, a failed check of the node, or an operator)"]


@pytest.mark.parametrize("trouble", ["down", "refused"])
def test_outage_is_borne_for_a_ttl_since_the_last_renewal(
    session: Session, consul: FakeConsul, clock: Clock, reasons: list[str], trouble: str
) -> None:
    """Retried each second until ten seconds have passed without a renewal, then lost, once."""
    clock.now += 5
    session.renew()
    setattr(consul, trouble, True)
    clock.now += 9.5
    assert session.renew() == 0.5
    assert reasons == []
    clock.now += 0.5
    session.renew()
    session.renew()
    assert session.lost
    assert len(reasons) == 1
    assert "could not be renewed for 10 s" in reasons[0]


def test_outage_that_ends_in_time_is_forgotten(
    session: Session, consul: FakeConsul, clock: Clock, reasons: list[str]
) -> None:
    """The next renewal that succeeds starts the TTL anew."""
    consul.down = True
    clock.now += 9
    assert session.renew() == 1.0
    consul.down = False
    assert session.renew() == 5.0
    consul.down = True
    clock.now += 9
    session.renew()
    assert reasons == []


def test_ended_session_is_destroyed_and_never_reported_lost(
    session: Session, consul: FakeConsul, reasons: list[str]
) -> None:
    """A renewal that comes too late says nothing."""
    session.end()
    assert consul.sessions == {}
    session.renew()
    assert reasons == []


def test_end_during_an_outage_is_left_to_the_ttl(session: Session, consul: FakeConsul) -> None:
    """It is no error of the caller's."""
    consul.down = True
    session.end()
    assert session.id in consul.sessions


def test_no_session_without_consul(consul: FakeConsul, store: FakeStore) -> None:
    """The error is the caller's to tell."""
    consul.down = True
    with pytest.raises(ConsulUnavailable):
        Session(store, "test", 10.0, "release", print)
