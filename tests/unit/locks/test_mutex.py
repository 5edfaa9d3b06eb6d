"""The lock for one holder, request by request."""

from __future__ import annotations

import pytest

from agentd.errors import LockNotAcquired
from agentd.locks.mutex import FLAGS, Mutex
from tests.unit.locks.fake import FakeConsul, FakeStore

KEY = "p/.lock"


@pytest.fixture
def mutex(store: FakeStore) -> Mutex:
    """The lock below `p`."""
    return Mutex(store, "p")


def session(store: FakeStore) -> str:
    """A new session."""
    return store.create_session("test", 15, "release")


def test_free_lock_is_taken_with_the_flags_of_consul_lock(
    consul: FakeConsul, store: FakeStore, mutex: Mutex
) -> None:
    """0x2ddccbc058a50c18, on PREFIX/.lock."""
    ours = session(store)
    assert mutex.attempt(ours, 0, 0).taken
    assert (consul.pairs[KEY].session, consul.pairs[KEY].flags) == (ours, 3304740253564472344)


def test_held_lock_is_not_taken_and_names_its_holder(store: FakeStore, mutex: Mutex) -> None:
    """The second has to wait for the first."""
    first, second = session(store), session(store)
    mutex.attempt(first, 0, 0)
    look = mutex.attempt(second, 0, 0)
    assert (look.taken, look.holders, look.delayed) == (False, (first,), False)


def test_lock_that_is_ours_already_counts_as_taken(store: FakeStore, mutex: Mutex) -> None:
    """The answer to the first attempt may have been lost."""
    ours = session(store)
    mutex.attempt(ours, 0, 0)
    assert mutex.attempt(ours, 0, 0).taken


def test_lock_delay_is_told_apart_from_a_holder(consul: FakeConsul, store: FakeStore, mutex: Mutex) -> None:
    """Nobody has it, and it cannot be had."""
    consul.put(KEY, flags=FLAGS)
    consul.delayed.add(KEY)
    look = mutex.attempt(session(store), 0, 0)
    assert (look.taken, look.holders, look.delayed) == (False, (), True)


@pytest.mark.parametrize("flags", [0, 0xE0F69A2BAA414DE0])
def test_key_that_serves_something_else_is_left_alone(consul: FakeConsul, mutex: Mutex, flags: int) -> None:
    """An operator's key, or a semaphore."""
    consul.put(KEY, b"theirs", flags)
    with pytest.raises(LockNotAcquired, match="choose another prefix"):
        mutex.attempt("any", 0, 0)
    mutex.tidy()
    assert consul.pairs[KEY].value == b"theirs"


def test_released_lock_is_tidied_away(consul: FakeConsul, store: FakeStore, mutex: Mutex) -> None:
    """Nothing of it stays in the store."""
    ours = session(store)
    mutex.attempt(ours, 0, 0)
    assert mutex.leave(ours)
    mutex.tidy()
    assert consul.pairs == {}


def test_lock_that_another_took_is_neither_released_nor_tidied(
    consul: FakeConsul, store: FakeStore, mutex: Mutex
) -> None:
    """To leave says that it was not ours."""
    other = session(store)
    mutex.attempt(other, 0, 0)
    assert not mutex.leave("ours")
    mutex.tidy()
    assert consul.pairs[KEY].session == other


@pytest.mark.parametrize("end", ["remove", "steal"])
def test_loss_is_seen(consul: FakeConsul, store: FakeStore, mutex: Mutex, end: str) -> None:
    """A key that was deleted, or given to another."""
    ours = session(store)
    mutex.attempt(ours, 0, 0)
    assert mutex.held(ours, 0, 0).taken
    if end == "remove":
        consul.remove(KEY)
    else:
        consul.put(KEY, flags=FLAGS, session="other")
    assert not mutex.held(ours, 0, 0).taken
