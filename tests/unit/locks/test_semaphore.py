"""The lock for several holders, request by request."""

from __future__ import annotations

import json

import pytest

from agentd.errors import ConsulUnavailable, LockNotAcquired
from agentd.locks.semaphore import FLAGS, Semaphore
from tests.unit.locks.fake import FakeConsul, FakeStore

KEY = "p/.lock"


@pytest.fixture
def semaphore(store: FakeStore) -> Semaphore:
    """Two places below `p`."""
    return Semaphore(store, "p", 2)


def contender(store: FakeStore, semaphore: Semaphore) -> str:
    """A new session that has entered."""
    session = store.create_session("test", 15, semaphore.behavior)
    semaphore.enter(session)
    return session


def test_store_looks_as_consul_lock_would_have_it(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """The list and the contender's own key, byte for byte, and their flags."""
    ours = contender(store, semaphore)
    assert semaphore.attempt(ours, 0, 0).taken
    assert consul.pairs[KEY].value == b'{"Limit":2,"Holders":{"s1":true}}'
    assert consul.pairs[f"p/{ours}"].session == ours
    assert {pair.flags for pair in consul.pairs.values()} == {16210313421097356768}


def test_last_place_taken_means_to_wait(store: FakeStore, semaphore: Semaphore) -> None:
    """The third sees who is in."""
    first, second, third = (contender(store, semaphore) for _ in range(3))
    assert semaphore.attempt(first, 0, 0).taken
    assert semaphore.attempt(second, 0, 0).taken
    assert semaphore.attempt(third, 0, 0).holders == (first, second)
    assert not semaphore.attempt(third, 0, 0).taken


def test_place_of_a_dead_holder_is_free(consul: FakeConsul, store: FakeStore, semaphore: Semaphore) -> None:
    """Its own key went with its session; the list still names it."""
    first, second, third = (contender(store, semaphore) for _ in range(3))
    semaphore.attempt(first, 0, 0)
    semaphore.attempt(second, 0, 0)
    consul.invalidate(first)
    assert semaphore.attempt(third, 0, 0).taken
    assert set(json.loads(consul.pairs[KEY].value)["Holders"]) == {second, third}


def test_race_for_the_last_place_has_one_winner(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """Who wrote second finds the place gone."""
    first, second, third = (contender(store, semaphore) for _ in range(3))
    semaphore.attempt(first, 0, 0)
    consul.before_replace = lambda: semaphore.attempt(second, 0, 0)
    assert not semaphore.attempt(third, 0, 0).taken
    assert semaphore.attempt(third, 0, 0).holders == (first, second)


def test_holder_on_the_list_counts_as_taken(store: FakeStore, semaphore: Semaphore) -> None:
    """The answer to the first attempt may have been lost."""
    ours = contender(store, semaphore)
    semaphore.attempt(ours, 0, 0)
    assert semaphore.attempt(ours, 0, 0).taken


def test_empty_list_is_one_without_holders(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """Consul's own client reads it so."""
    consul.put(KEY, b"", FLAGS)
    assert semaphore.attempt(contender(store, semaphore), 0, 0).taken


@pytest.mark.parametrize(
    "value,flags,said",
    [
        (b'{"Limit":3,"Holders":{}}', FLAGS, "use -n 3"),
        (b"theirs", FLAGS, "does not contain a list"),
        (b"[]", FLAGS, "does not contain a list"),
        (b'{"Limit":1e400,"Holders":{}}', FLAGS, "does not contain a list"),
        (b"[" * 100_000, FLAGS, "does not contain a list"),
        (b"", 0x2DDCCBC058A50C18, "not a lock for several"),
        (b"theirs", 0, "not a lock for several"),
    ],
)
def test_key_that_serves_something_else_is_left_alone(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore, value: bytes, flags: int, said: str
) -> None:
    """Another limit, no list, a lock for one, an operator's key."""
    consul.put(KEY, value, flags)
    with pytest.raises(LockNotAcquired, match=said):
        semaphore.attempt(contender(store, semaphore), 0, 0)
    assert consul.pairs[KEY].value == value


def test_leaving_frees_the_place_and_tidies_up(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """With the last holder the list goes as well."""
    first, second = (contender(store, semaphore) for _ in range(2))
    semaphore.attempt(first, 0, 0)
    semaphore.attempt(second, 0, 0)
    assert semaphore.leave(first)
    semaphore.tidy()
    assert set(consul.pairs) == {KEY, f"p/{second}"}
    assert semaphore.leave(second)
    semaphore.tidy()
    assert consul.pairs == {}


def test_leaving_tries_again_when_the_list_changed(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """Another holder came in between the read and the write, and stays."""
    first, second = (contender(store, semaphore) for _ in range(2))
    semaphore.attempt(first, 0, 0)
    consul.before_replace = lambda: semaphore.attempt(second, 0, 0)
    assert semaphore.leave(first)
    assert set(json.loads(consul.pairs[KEY].value)["Holders"]) == {second}


def test_leaving_gives_up_on_a_list_that_never_stands_still(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """A bounded number of tries, then an error that Consul cannot be told."""
    ours = contender(store, semaphore)
    semaphore.attempt(ours, 0, 0)

    def disturb() -> None:
        consul.put(KEY, consul.pairs[KEY].value, FLAGS)
        consul.before_replace = disturb

    consul.before_replace = disturb
    with pytest.raises(ConsulUnavailable, match="too often"):
        semaphore.leave(ours)


@pytest.mark.parametrize("value,flags", [(b'{"Limit":2,"Holders":{}}', FLAGS), (b"x", 0)])
def test_loss_is_seen_and_told_when_leaving(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore, value: bytes, flags: int
) -> None:
    """Someone struck us off, or wrote something else over the list."""
    ours = contender(store, semaphore)
    semaphore.attempt(ours, 0, 0)
    assert semaphore.held(ours, 0, 0).taken
    consul.put(KEY, value, flags)
    assert not semaphore.held(ours, 0, 0).taken
    assert not semaphore.leave(ours)


def test_own_key_that_another_has_is_an_error(
    consul: FakeConsul, store: FakeStore, semaphore: Semaphore
) -> None:
    """It cannot happen to a fresh session; if it does, nothing is taken."""
    session = store.create_session("test", 15, "delete")
    consul.put(f"p/{session}", session="other")
    with pytest.raises(ConsulUnavailable, match="acquire its own key"):
        semaphore.enter(session)
