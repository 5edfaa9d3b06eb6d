"""What is read of the log is held, as long as the memory can be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

import agentd.fleet.relay
from agentd.errors import JournalError
from agentd.fleet.envelope import Draft, Envelope
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


def test_a_head_whose_message_is_not_read_yet_forgets_nothing(memory: Memory) -> None:
    """Though older messages that it lists are there."""
    holder = Holder(memory, None)
    holder.read(NAME, Head("all", 2, 1, 2, recent=(1, 2)), MESSAGES[:2])
    holder.read(NAME, Head("all", 9, 3, 2, floor=8, base=8, recent=(3, 9)), MESSAGES[2:])
    assert numbers(memory) == [1, 2, 3]


class Relay:
    """Remembers what it is to look at."""

    def __init__(self) -> None:
        self.suspects: list[str] = []

    def suspect(self, name: str) -> None:
        """The log of that name may be gone, or older than before."""
        self.suspects.append(name)

    def saw(self, name: str, messages: Sequence[Envelope]) -> None:
        """These messages of the log were read."""


def test_a_log_that_was_mended_is_looked_at_once(memory: Memory) -> None:
    """Somebody wrote back what it held, which need not be all."""
    relay = Relay()
    holder = Holder(memory, cast("agentd.fleet.relay.Relay", relay))
    whole = Head("all", 3, 1, 3, recent=(1, 2, 3))
    holder.saw(NAME, whole)
    holder.read(NAME, whole, MESSAGES)
    assert relay.suspects == []
    for _ in range(2):
        holder.saw(NAME, replace(whole, mended=7))
    assert relay.suspects == [NAME]


def test_a_log_that_went_on_without_what_is_held_is_looked_at(memory: Memory) -> None:
    """However many messages came since then."""
    relay = Relay()
    holder = Holder(memory, cast("agentd.fleet.relay.Relay", relay))
    holder.read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    later = Draft(b"x", issued=1.0, publisher="ops").numbered("prod", NAME, 9, 1)
    holder.read(NAME, Head("all", 9, 1, 2, recent=(1, 9)), [later])
    assert relay.suspects == [NAME]


def test_a_memory_that_cannot_be_used_is_told_once(memory: Memory) -> None:
    """The log is followed without it."""
    holder = Holder(memory, None)
    memory.close()
    holder.read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    assert "not open" in holder.trouble


def test_a_memory_that_was_full_is_filled_later(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read meanwhile would otherwise never be held: the follower goes on from where it is."""
    now = [0.0]
    holder = Holder(memory, None, lambda: now[0])
    whole = Head("all", 3, 1, 3, recent=(1, 2, 3))
    with monkeypatch.context() as patched:
        patched.setattr(memory, "remember", _full)
        holder.read(NAME, whole, MESSAGES)
        holder.has_all(NAME)
    holder.saw(NAME, whole)
    assert "full" in holder.trouble
    assert not holder.lacks(NAME)

    now[0] = 60.0
    assert holder.lacks(NAME)
    holder.read(NAME, whole, MESSAGES)
    holder.has_all(NAME)

    assert not holder.lacks(NAME)
    assert (numbers(memory), holder.trouble) == ([1, 2, 3], "")


def test_what_another_start_has_held_is_not_read_again(memory: Memory) -> None:
    """But what it lost is."""
    assert Holder(memory, None).lacks(NAME)
    Holder(memory, None).read(NAME, Head("all", 3, 1, 3, recent=(1, 2, 3)), MESSAGES)
    assert not Holder(memory, None).lacks(NAME)
    memory.drop(NAME)
    assert Holder(memory, None).lacks(NAME)


def _full(*_: object) -> None:
    raise JournalError("the disk is full")
