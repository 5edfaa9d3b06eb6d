"""The lock as a library: acquire, lose, release, fence; its threads run, Consul is in memory."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator

import pytest

from agentd.errors import ConsulRefused, ConsulUnavailable, LockLost, LockNotAcquired
from agentd.locks.lock import Lock, check_prefix
from tests.unit.locks.fake import FakeConsul, FakeStore

NewLock = Callable[..., Lock]


@pytest.fixture
def new_lock(consul: FakeConsul) -> Iterator[NewLock]:
    """Make locks below `p`; those still held are released at the end."""
    made: list[Lock] = []

    def make(*, limit: int = 1, timeout: float | None = 5.0) -> Lock:
        made.append(Lock(FakeStore(consul), "p", limit=limit, timeout=timeout))
        return made[-1]

    yield make
    for lock in made:
        lock.cancel()
        if lock.session:
            with pytest.raises(LockLost) if lock.lost else threading.Lock():
                lock.release()


def losing(lock: Lock) -> tuple[threading.Event, list[str]]:
    """An event that is set when the lock is lost, and the reasons told."""
    event, reasons = threading.Event(), []

    def lost(reason: str) -> None:
        reasons.append(reason)
        event.set()

    lock.on_lost = lost
    return event, reasons


@pytest.mark.parametrize("limit", [1, 2])
def test_with_block_holds_and_leaves_nothing_behind(
    new_lock: NewLock, consul: FakeConsul, limit: int
) -> None:
    """No key and no session stays."""
    with new_lock(limit=limit) as lock:
        assert lock.held
        assert consul.pairs[lock.guard].session == lock.session
    assert (consul.pairs, consul.sessions, lock.held) == ({}, {}, False)


def test_key_is_released_before_the_session_is_destroyed(new_lock: NewLock, consul: FakeConsul) -> None:
    """The other way round the next holder would wait for the lock delay."""
    with new_lock():
        pass
    assert consul.log.index("release") < consul.log.index("destroy")
    assert consul.delayed == set()


def test_second_waits_until_the_first_is_done(new_lock: NewLock) -> None:
    """It blocks in Consul and is woken by the release."""
    first, second = new_lock(), new_lock()
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    assert not second.held
    first.release()
    waiting.join(60)
    assert second.held


def test_lock_not_had_in_time_leaves_nothing_behind(new_lock: NewLock, consul: FakeConsul) -> None:
    """The session of the loser goes."""
    with new_lock() as first:
        with pytest.raises(LockNotAcquired, match=f"held by session {first.session}"):
            new_lock(timeout=0.0).acquire()
        assert set(consul.sessions) == {first.session}


@pytest.mark.parametrize("early", [True, False])
def test_waiting_can_be_cancelled_from_another_thread(
    new_lock: NewLock,
    consul: FakeConsul,
    early: bool,  # noqa: FBT001 (pytest passes parameters by name)
) -> None:
    """Before it began, or while it blocks."""
    first, second = new_lock(limit=2), new_lock(limit=2, timeout=None)
    first.acquire()
    third = new_lock(limit=2)
    third.acquire()
    if early:
        second.cancel()
    else:
        threading.Timer(0.05, second.cancel).start()
    with pytest.raises(LockNotAcquired, match="cancelled"):
        second.acquire()
    assert set(consul.sessions) == {first.session, third.session}


@pytest.mark.parametrize("limit", [1, 2])
def test_key_deleted_by_an_operator_is_a_loss(new_lock: NewLock, consul: FakeConsul, limit: int) -> None:
    """The holder is told at once, and again when it releases; the session does not stay."""
    lock = new_lock(limit=limit)
    event, reasons = losing(lock)
    lock.acquire()
    consul.remove(lock.guard)
    assert event.wait(60)
    assert not lock.held
    assert reasons == [lock.lost] == ["its key was released, deleted or taken by another session"]
    with pytest.raises(LockLost, match="taken by another"):
        lock.release()
    assert consul.sessions == {}


def test_lost_lock_can_be_had_anew(new_lock: NewLock, consul: FakeConsul) -> None:
    """After the release it is like new."""
    lock = new_lock()
    event, _ = losing(lock)
    lock.acquire()
    consul.remove(lock.guard)
    event.wait(60)
    with pytest.raises(LockLost):
        lock.release()
    with lock:
        assert lock.held


def test_loss_does_not_hide_what_went_wrong_inside(new_lock: NewLock, consul: FakeConsul) -> None:
    """The error of the block stays, with a note."""

    def work(lock: Lock) -> None:
        with lock:
            consul.remove(lock.guard)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        work(new_lock())
    assert "was lost" in raised.value.__notes__[0]


def test_loss_unnoticed_until_the_release_is_told(new_lock: NewLock, consul: FakeConsul) -> None:
    """Whoever relied on the lock must know."""
    with pytest.raises(LockLost, match="was lost"), new_lock() as lock:
        consul.remove(lock.guard)


def test_release_that_consul_does_not_hear_is_an_error(new_lock: NewLock, consul: FakeConsul) -> None:
    """The TTL will end it; nothing is renewed any more."""
    lock = new_lock()
    lock.acquire()
    consul.down = True
    with pytest.raises(ConsulUnavailable):
        lock.release()
    assert not lock.held
    consul.down = False


def test_error_on_entering_leaves_no_session(new_lock: NewLock, consul: FakeConsul) -> None:
    """The contender's key is another's: cannot happen, must not leak."""
    consul.put("p/s1", session="other")
    with pytest.raises(ConsulUnavailable):
        new_lock(limit=2).acquire()
    assert consul.sessions == {}


def test_misuse_is_an_error_of_the_program(new_lock: NewLock) -> None:
    """To acquire twice, to release what is not held."""
    lock = new_lock()
    with pytest.raises(RuntimeError):
        lock.release()
    with lock, pytest.raises(RuntimeError):
        lock.acquire()


@pytest.mark.parametrize("limit", [1, 2])
def test_fenced_write_is_done_while_the_lock_is_ours(
    new_lock: NewLock, consul: FakeConsul, limit: int
) -> None:
    """Bytes in, and the check is not among the results."""
    with new_lock(limit=limit) as lock:
        done = lock.fence([{"Verb": "set", "Key": "a", "Value": b"\xff"}])
        assert base64.b64decode(consul.pairs["a"].value) == b"\xff"
    assert [one["Key"] for one in done] == ["a"]


def test_fence_stops_a_write_after_the_loss_and_tells_of_it(new_lock: NewLock, consul: FakeConsul) -> None:
    """Also when nothing but the fence has noticed yet."""
    lock = new_lock()
    _, reasons = losing(lock)
    lock.acquire()
    with consul.changed:  # the monitor cannot look before we did
        consul.pairs.clear()
        with pytest.raises(LockLost, match="nothing was written"):
            lock.fence([{"Verb": "set", "Key": "a", "Value": b""}])
    with pytest.raises(LockLost, match="not held"):
        lock.fence([])
    assert "a" not in consul.pairs
    assert len(reasons) == 1


def test_fence_tells_an_operation_that_failed_from_a_loss(new_lock: NewLock) -> None:
    """The lock is still ours."""
    with new_lock() as lock:
        with pytest.raises(ConsulRefused, match=r"operation 2 .*stale"):
            lock.fence([{"Verb": "get", "Key": "b"}, {"Verb": "cas", "Key": "a", "Index": 1}])
        assert lock.held


def test_fence_takes_what_fits_a_transaction(new_lock: NewLock) -> None:
    """64 with the check."""
    with new_lock() as lock, pytest.raises(ValueError, match="63"):
        lock.fence([{"Verb": "get", "Key": "a"}] * 64)


@pytest.mark.parametrize("given,bare", [("a", "a"), ("/a/b/", "a/b"), ("a b/ü", "a b/ü")])
def test_prefix_loses_the_slashes_around_it(given: str, bare: str) -> None:
    """As `consul lock` does it."""
    assert check_prefix(given) == bare


@pytest.mark.parametrize("given", ["", "/", "a//b", "../a", "a/./b", "a\nb"])
def test_prefix_that_is_none_is_refused(given: str) -> None:
    """Consul would take some of them for another key."""
    with pytest.raises(ValueError, match="prefix"):
        check_prefix(given)


@pytest.mark.parametrize("options", [{"limit": 0}, {"ttl": 9.9}, {"ttl": 90000.0}])
def test_options_that_consul_would_refuse_are_refused_here(
    store: FakeStore, options: dict[str, float]
) -> None:
    """Before a session is made."""
    with pytest.raises(ValueError, match="limit"):
        Lock(store, "p", **options)  # type: ignore[arg-type] # the wrong values are the point
