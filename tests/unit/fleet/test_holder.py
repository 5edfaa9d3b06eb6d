"""What is read of the log is held, as long as the memory can be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentd.fleet.envelope import Draft
from agentd.fleet.head import Head
from agentd.fleet.holder import Holder
from agentd.fleet.memory import FILE, Memory

NAME = "deploy"
MESSAGES = tuple(Draft(b"x", issued=1.0, publisher="ops").numbered("prod", NAME, n, n - 1) for n in (1, 2, 3))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    """An empty one."""
    with closing(Memory(tmp_path / FILE)) as made:
        yield made


def numbers(memory: Memory) -> list[int]:
    """Of the messages that are held."""
    held = memory.held(NAME)
    return [one.num for one in held.messages] if held else []


def test_what_was_forgotten_while_nothing_new_came_is_not_held(memory: Memory) -> None:
    """Or a wiped store would get it back."""
    holder = Holder(memory, None)
    holder.read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    holder.saw(NAME, Head("all", 3, 3, 1, floor=2, base=2, recent=(3,)))
    assert numbers(memory) == [3]


def test_a_head_without_its_message_forgets_nothing(memory: Memory) -> None:
    """Anybody may have written it."""
    holder = Holder(memory, None)
    holder.read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    holder.saw(NAME, Head("all", 9, floor=9, base=9))
    holder.saw(NAME, None)
    assert numbers(memory) == [1, 2, 3]


def test_a_memory_that_cannot_be_used_is_told_once(memory: Memory) -> None:
    """The log is followed without it."""
    holder = Holder(memory, None)
    memory.close()
    holder.read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    assert "not open" in holder.trouble
