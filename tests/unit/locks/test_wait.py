"""The wait for a lock, with a scripted kind of lock and a clock that its answers move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable, LockNotAcquired
from agentd.locks.kind import LockState
from agentd.locks.session import Session
from agentd.locks.wait import Wait
from tests.unit.locks.fake import FakeConsul, FakeStore
from tests.unit.locks.scripted import Clock, ScriptedKind

BUSY = LockState(index=7, holders=("them",))
TAKEN = LockState(taken=True, index=9)
NewWait = Callable[..., tuple[Wait, ScriptedKind]]


@pytest.fixture
def sessions() -> list[Session]:
    """All that were made."""
    return []


@pytest.fixture
def new_wait(store: FakeStore, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> NewWait:
    """Make waits: `new_wait(state, state, ..., timeout=5)`; a pause within one passes no time."""

    def make(*script: LockState | AgentdError, timeout: float | None) -> tuple[Wait, ScriptedKind]:
        def enter() -> Session:
            sessions.append(Session(store, "test", 10.0, "release", lambda _: None))
            return sessions[-1]

        kind = ScriptedKind(Clock(), list(script))
        wait = Wait(kind, store, enter, timeout, clock=kind.clock)

        def pause(seconds: float) -> bool:
            kind.clock.now += seconds
            return False

        monkeypatch.setattr(wait._cancelled, "wait", pause)
        return wait, kind

    return make


def test_next_look_blocks_on_the_index_of_the_last(new_wait: NewWait, sessions: list[Session]) -> None:
    """The first is at once; Consul waits for the second; the session that won is returned."""
    wait, kind = new_wait(BUSY, TAKEN, timeout=None)
    assert wait.run() is sessions[0]
    assert [index for _, index, _ in kind.asked] == [0, 7]


def test_timeout_bounds_the_wait_jitter_included(new_wait: NewWait) -> None:
    """No look may wait longer than what is left, and the end is told with the holder and its node."""
    wait, kind = new_wait(BUSY, timeout=5.0)
    with pytest.raises(
        LockNotAcquired, match=r"timed out after 5 s waiting for the lock: held by session them$"
    ):
        wait.run()
    assert kind.clock.now == pytest.approx(105.0, abs=0.01)
    assert all(wait * 17 / 16 <= 5.0 for _, _, wait in kind.asked)


def test_no_timeout_waits_in_queries_that_consul_accepts(new_wait: NewWait) -> None:
    """Below a minute each, as often as needed."""
    wait, kind = new_wait(*[BUSY] * 20, TAKEN, timeout=None)
    wait.run()
    assert kind.clock.now > 1000
    assert all(wait <= 55 for _, _, wait in kind.asked)


def test_timeout_of_nothing_looks_once(new_wait: NewWait) -> None:
    """Who does not want to wait learns it at once."""
    wait, kind = new_wait(BUSY, timeout=0.0)
    with pytest.raises(LockNotAcquired):
        wait.run()
    assert len(kind.asked) == 1


def test_holder_is_named_with_its_node(new_wait: NewWait, store: FakeStore) -> None:
    """So that an operator knows where to look."""
    holder = store.create_session("test", 15, "release")
    wait, _ = new_wait(LockState(index=7, holders=(holder,)), timeout=0.0)
    with pytest.raises(LockNotAcquired, match=f"held by session {holder} of node node1"):
        wait.run()


@pytest.mark.parametrize(
    "last,said",
    [
        (LockState(index=7, delayed=True), "lock delay"),
        (LockState(index=7), "another contender, who was faster"),
        (ConsulUnavailable("no leader"), "no leader"),
    ],
)
def test_end_of_the_wait_says_why(new_wait: NewWait, last: LockState | AgentdError, said: str) -> None:
    """A dead holder, a lost race, or Consul itself."""
    wait, _ = new_wait(last, timeout=3.0)
    with pytest.raises(LockNotAcquired, match=said):
        wait.run()


def test_outage_while_waiting_is_waited_through(new_wait: NewWait) -> None:
    """After it the first look is at once, without the index of before."""
    wait, kind = new_wait(BUSY, ConsulUnavailable("restart"), BUSY, TAKEN, timeout=None)
    wait.run()
    assert [index for _, index, _ in kind.asked] == [0, 7, 0, 7]


def test_refusal_ends_the_wait(new_wait: NewWait) -> None:
    """Asking again would not help."""
    wait, _ = new_wait(BUSY, ConsulRefused("Permission denied"), timeout=None)
    with pytest.raises(ConsulRefused):
        wait.run()


def test_index_that_went_back_is_started_over(new_wait: NewWait) -> None:
    """As after servers were restored from a snapshot."""
    wait, kind = new_wait(BUSY, LockState(index=3, holders=("them",)), TAKEN, timeout=None)
    wait.run()
    assert [index for _, index, _ in kind.asked] == [0, 7, 0]


def test_session_that_ended_while_waiting_is_replaced(
    new_wait: NewWait, sessions: list[Session], consul: FakeConsul
) -> None:
    """The wait goes on with a new one."""
    wait, kind = new_wait(BUSY, BUSY, TAKEN, timeout=None)
    attempt = kind.attempt

    def attempt_and_lose(session: str, index: int, wait: float) -> LockState:
        if len(kind.asked) == 1:
            consul.invalidate(session)
            sessions[0].renew()
        return attempt(session, index, wait)

    kind.attempt = attempt_and_lose  # type: ignore[method-assign] # the event in the middle of the script
    assert wait.run() is sessions[1]


def test_cancelled_turn_gives_up(new_wait: NewWait, store: FakeStore) -> None:
    """Before it began, or by closing the connection it waits on."""
    wait, _ = new_wait(BUSY, timeout=None)
    wait.cancel()
    with pytest.raises(ConsulUnavailable):  # the store is closed: not even a session can be made
        wait.run()
    assert store.closed
