"""The wait for a lock, with a scripted claim and a clock that the looks move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable, LockNotAcquired
from agentd.fleet.claim import Look
from agentd.fleet.session import Session
from agentd.fleet.turn import Turn
from tests.unit.fleet.fake import FakeConsul, FakeStore
from tests.unit.fleet.scripted import Clock, ScriptedClaim

BUSY = Look(index=7, holders=("them",))
TAKEN = Look(taken=True, index=9)
NewTurn = Callable[..., tuple[Turn, ScriptedClaim]]


@pytest.fixture
def sessions() -> list[Session]:
    """All that were made."""
    return []


@pytest.fixture
def new_turn(store: FakeStore, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> NewTurn:
    """Make turns: `new_turn(look, look, ..., timeout=5)`; a pause within one passes no time."""

    def make(*script: Look | AgentdError, timeout: float | None) -> tuple[Turn, ScriptedClaim]:
        def enter() -> Session:
            sessions.append(Session(store, "test", 10.0, "release", lambda _: None))
            return sessions[-1]

        claim = ScriptedClaim(Clock(), list(script))
        turn = Turn(claim, store, enter, timeout, clock=claim.clock)

        def pause(seconds: float) -> bool:
            claim.clock.now += seconds
            return False

        monkeypatch.setattr(turn._cancelled, "wait", pause)
        return turn, claim

    return make


def test_next_look_blocks_on_the_index_of_the_last(new_turn: NewTurn, sessions: list[Session]) -> None:
    """The first is at once; Consul waits for the second; the session that won is returned."""
    turn, claim = new_turn(BUSY, TAKEN, timeout=None)
    assert turn.wait() is sessions[0]
    assert [index for _, index, _ in claim.asked] == [0, 7]


def test_timeout_bounds_the_wait_jitter_included(new_turn: NewTurn) -> None:
    """No look may wait longer than what is left, and the end is told with the holder and its node."""
    turn, claim = new_turn(BUSY, timeout=5.0)
    with pytest.raises(LockNotAcquired, match=r"within 5 s: held by session them$"):
        turn.wait()
    assert claim.clock.now == pytest.approx(105.0, abs=0.01)
    assert all(wait * 17 / 16 <= 5.0 for _, _, wait in claim.asked)


def test_no_timeout_waits_in_queries_that_consul_accepts(new_turn: NewTurn) -> None:
    """Below a minute each, as often as needed."""
    turn, claim = new_turn(*[BUSY] * 20, TAKEN, timeout=None)
    turn.wait()
    assert claim.clock.now > 1000
    assert all(wait <= 55 for _, _, wait in claim.asked)


def test_timeout_of_nothing_looks_once(new_turn: NewTurn) -> None:
    """Who does not want to wait learns it at once."""
    turn, claim = new_turn(BUSY, timeout=0.0)
    with pytest.raises(LockNotAcquired):
        turn.wait()
    assert len(claim.asked) == 1


def test_holder_is_named_with_its_node(new_turn: NewTurn, store: FakeStore) -> None:
    """So that an operator knows where to look."""
    holder = store.create_session("test", 15, "release")
    turn, _ = new_turn(Look(index=7, holders=(holder,)), timeout=0.0)
    with pytest.raises(LockNotAcquired, match=f"held by session {holder} of node node1"):
        turn.wait()


@pytest.mark.parametrize(
    "last,said",
    [
        (Look(index=7, delayed=True), "lock delay"),
        (Look(index=7), "someone who was faster"),
        (ConsulUnavailable("no leader"), "no leader"),
    ],
)
def test_end_of_the_wait_says_why(new_turn: NewTurn, last: Look | AgentdError, said: str) -> None:
    """A dead holder, a lost race, or Consul itself."""
    turn, _ = new_turn(last, timeout=3.0)
    with pytest.raises(LockNotAcquired, match=said):
        turn.wait()


def test_outage_while_waiting_is_waited_through(new_turn: NewTurn) -> None:
    """After it the first look is at once, without the index of before."""
    turn, claim = new_turn(BUSY, ConsulUnavailable("restart"), BUSY, TAKEN, timeout=None)
    turn.wait()
    assert [index for _, index, _ in claim.asked] == [0, 7, 0, 7]


def test_refusal_ends_the_wait(new_turn: NewTurn) -> None:
    """Asking again would not help."""
    turn, _ = new_turn(BUSY, ConsulRefused("Permission denied"), timeout=None)
    with pytest.raises(ConsulRefused):
        turn.wait()


def test_index_that_went_back_is_started_over(new_turn: NewTurn) -> None:
    """As after servers were restored from a snapshot."""
    turn, claim = new_turn(BUSY, Look(index=3, holders=("them",)), TAKEN, timeout=None)
    turn.wait()
    assert [index for _, index, _ in claim.asked] == [0, 7, 0]


def test_session_that_ended_while_waiting_is_replaced(
    new_turn: NewTurn, sessions: list[Session], consul: FakeConsul
) -> None:
    """The wait goes on with a new one."""
    turn, claim = new_turn(BUSY, BUSY, TAKEN, timeout=None)
    attempt = claim.attempt

    def attempt_and_lose(session: str, index: int, wait: float) -> Look:
        if len(claim.asked) == 1:
            consul.invalidate(session)
            sessions[0].renew()
        return attempt(session, index, wait)

    claim.attempt = attempt_and_lose  # type: ignore[method-assign] # the event in the middle of the script
    assert turn.wait() is sessions[1]


def test_cancelled_turn_gives_up(new_turn: NewTurn, store: FakeStore) -> None:
    """Before it began, or by closing the connection it waits on."""
    turn, _ = new_turn(BUSY, timeout=None)
    turn.cancel()
    with pytest.raises(ConsulUnavailable):  # the store is closed: not even a session can be made
        turn.wait()
    assert store.closed
