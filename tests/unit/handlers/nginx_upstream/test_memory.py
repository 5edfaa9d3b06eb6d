"""Who is right: what is listed, or what was seen before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_upstream.memory import Memory

A = "10.0.0.1:80"
states = st.sampled_from(["up", "down", "drain"])
generations = st.integers(1, 5)


def seen(wish: str, listed: str, *, committed: str = "up", generation: int = 3) -> Memory[str]:
    """A memory of one server."""
    memory: Memory[str] = Memory()
    memory.remember(A, wish, listed, committed, generation)
    return memory


@given(states, states)
def test_without_a_memory_what_is_listed_is_right(listed: str, committed: str) -> None:
    """Whatever is committed: somebody set it while agentd was away."""
    assert Memory[str]().wish(A, listed, listed, committed, None) == listed


@given(states, states, states)
def test_what_was_listed_before_says_nothing_new(wish: str, listed: str, committed: str) -> None:
    """It only could not be set yet."""
    assert seen(wish, listed).wish(A, listed, listed, committed, None) == wish


@given(states, states, st.none() | generations)
def test_what_was_set_says_nothing_new(wish: str, value: str, loaded: int | None) -> None:
    """Whether or not it could be verified, nor that it was read from a file."""
    memory = seen(wish, "up")
    memory.set(A, value, verified=False)

    assert memory.wish(A, value, value, wish, loaded) == wish
    assert memory.wish(A, "up", "up", wish, loaded) == wish


@given(states, states, states)
def test_anything_else_is_an_operators(wish: str, listed: str, says: str) -> None:
    """While nothing was reloaded."""
    if says != listed:
        assert seen(wish, listed).wish(A, says, says, wish, None) == says


@given(generations, generations)
def test_a_file_that_is_older_than_the_wish_says_nothing(learnt: int, loaded: int) -> None:
    """A newer one has it, so that another value was set after the reload."""
    memory = seen("down", "down", generation=learnt)

    assert memory.wish(A, "up", "up", "down", loaded) == ("down" if learnt >= loaded else "up")


def test_a_wish_keeps_its_generation_while_it_is_the_same() -> None:
    """Every look confirms it."""
    memory = seen("down", "down", generation=3)
    memory.remember(A, "down", "down", "down", 9)

    assert memory.wish(A, "up", "up", "down", 5) == "up"


def test_what_is_forgotten_is_unknown() -> None:
    """So that memory does not grow with every server that there ever was."""
    memory = seen("down", "down")

    memory.forget(frozenset())

    assert A not in memory
    assert memory.last(A, "up") == "up"
