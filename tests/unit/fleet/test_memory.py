"""What a node holds of the log, on its disk."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import agentd.fleet.memory as memory_module
from agentd.errors import JournalError
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.head import Head
from agentd.fleet.held import Held
from agentd.fleet.memory import FILE, Memory
from agentd.trust.pattern import FREEZE

NAME = "deploy"
NOW = 1000.0
OLD = b"the old secret" * 9


def message(num: int, *, name: str = NAME, expires: float | None = None, body: bytes = b"x") -> Envelope:
    """One message."""
    draft = Draft(body, issued=1.0, publisher="ops", expires=expires, id=f"m{num}")
    return draft.numbered("prod", name, num, num - 1)


def head(*numbers: int, base: int = 0, floor: int = 0) -> Head:
    """The head of a log of these messages."""
    return Head("all", numbers[-1], numbers[0], len(numbers), floor, base, recent=numbers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "state" / FILE


@pytest.fixture
def memory(path: Path) -> Iterator[Memory]:
    """An empty one."""
    made = Memory(path, lambda: NOW)
    yield made
    made.close()


def numbers(memory: Memory, name: str = NAME) -> list[int]:
    """Of the messages that are held."""
    held = memory.held(name)
    return [one.num for one in held.messages] if held else []


def test_messages_are_held_as_they_were(path: Path, memory: Memory) -> None:
    """Byte by byte, across a restart."""
    kept = [message(1), message(2)]
    memory.remember(NAME, head(1, 2), kept, {"ab" * 32: b"body"})
    memory.close()
    with closing(Memory(path)) as later:
        held = later.held(NAME)
        assert held
        assert [one.raw for one in held.messages] == [one.raw for one in kept]
        assert held.head == head(1, 2)
        assert later.body("ab" * 32) == b"body"
        assert later.body("cd" * 32) is None
        assert later.names() == (NAME,)


def test_the_file_is_for_agentd_alone(path: Path, memory: Memory) -> None:
    """It holds payloads."""
    memory.remember(NAME, head(1), [message(1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_highest_number_never_falls(path: Path, memory: Memory) -> None:
    """Whatever Consul has afterwards, and although the messages are gone."""
    memory.remember(NAME, head(5), [message(5)])
    memory.remember(NAME, head(3), [message(3)])
    memory.drop(NAME)
    assert memory.highest(NAME) == 5
    memory.close()
    with closing(Memory(path)) as later:
        assert later.highest(NAME) == 5
        assert later.highest("other") == 0


def test_what_is_pruned_or_forgotten_is_not_held(memory: Memory) -> None:
    """The marks of the head say so, and stay the highest that were seen."""
    memory.remember(NAME, head(1, 2, 3, 4), [message(n) for n in (1, 2, 3, 4)])
    memory.remember(NAME, head(2, 3, 4, base=1))
    assert numbers(memory) == [2, 3, 4]
    memory.remember(NAME, head(4, floor=3))
    memory.remember(NAME, head(4))
    assert numbers(memory) == [4]
    held = memory.held(NAME)
    assert held
    assert (held.head.base, held.head.floor) == (1, 3)


def test_what_is_forgotten_without_a_new_message_is_not_held(memory: Memory) -> None:
    """Only by a head whose newest message this node knows: another one is not believed yet."""
    memory.remember(NAME, head(1, 2), [message(1), message(2)])
    memory.note(NAME, Head("all", newest=9, floor=9, base=9))
    assert numbers(memory) == [1, 2]
    memory.note(NAME, Head("all", newest=2, floor=2, base=2))
    assert numbers(memory) == []
    assert memory.seems_lost(NAME, None)


def test_a_message_is_never_replaced(memory: Memory) -> None:
    """The first that was read is the one that was applied."""
    memory.remember(NAME, head(1), [message(1)])
    memory.remember(NAME, head(1), [message(1, body=b"other")])
    held = memory.held(NAME)
    assert held
    assert held.messages[0].body == b"x"


def test_a_message_that_has_another_number_now_is_held_once(memory: Memory) -> None:
    """The log lost it, and a node that held nothing wrote it again."""
    memory.remember(NAME, head(1, 2), [message(1), message(2)])
    again = Draft(b"x", issued=1.0, publisher="ops", id="m1").numbered("prod", NAME, 3, 2)
    memory.remember(NAME, head(3), [again])
    assert numbers(memory) == [2, 3]


def test_memory_is_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by size; the oldest go."""
    monkeypatch.setattr(memory_module, "MOST_OF_NAME", 5)
    memory.remember(NAME, head(*range(1, 10)), [message(n) for n in range(1, 10)])
    assert numbers(memory) == [5, 6, 7, 8, 9]
    monkeypatch.setattr(memory_module, "MOST_MESSAGES", 3 * len(message(9).raw))
    monkeypatch.setattr(memory_module, "MOST_BODIES", 10)
    memory.remember(NAME, head(9), [], {"a" * 64: b"123456", "b" * 64: b"123456"})
    assert numbers(memory) == [7, 8, 9]
    assert [memory.body("a" * 64), memory.body("b" * 64)].count(None) == 1


def test_a_flood_of_messages_ends_no_freeze(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held, however much newer than it is everything else."""
    monkeypatch.setattr(memory_module, "MOST_MESSAGES", 3 * len(message(9).raw))
    memory.remember(FREEZE, head(1), [message(1, name=FREEZE)])
    memory.remember(NAME, head(*range(2, 9)), [message(num) for num in range(2, 9)])

    assert numbers(memory, FREEZE) == [1]
    assert numbers(memory)[-1] == 8


@pytest.mark.parametrize(
    "known",
    [
        replace(head(2, 3), floor=1), replace(head(2, 3), base=1), replace(head(2, 3), cut=1),
        replace(head(2, 3), snapshot=2),
    ],
)  # fmt: skip
def test_a_mark_that_is_gone_shows_a_loss(memory: Memory, known: Head) -> None:
    """Though all messages are there: the head was made anew from them."""
    memory.remember(NAME, known, [message(2), message(3)])
    assert not memory.seems_lost(NAME, known)
    assert memory.seems_lost(NAME, head(2, 3))


@pytest.mark.parametrize("expires", [None, NOW - 1])
def test_a_log_that_ends_before_what_is_held_is_lost(memory: Memory, expires: float | None) -> None:
    """The newest message counts even if its time is over: the numbers go on from it."""
    memory.remember(NAME, head(1, 2), [message(1), message(2, expires=expires)])
    assert memory.seems_lost(NAME, head(1))
    assert not memory.seems_lost(NAME, head(1, 2))
    assert not memory.seems_lost(NAME, head(3))


def test_a_message_that_passes_over_another_shows_a_loss(memory: Memory) -> None:
    """Whoever wrote it did not know the one that is held, however many came since then."""
    assert not memory.remember(NAME, head(1, 2), [message(1), message(2)])
    assert not memory.remember(NAME, head(2, 3), [message(3)])
    later = Draft(b"x", issued=1.0, publisher="ops", id="m9").numbered("prod", NAME, 9, 2)
    assert memory.remember(NAME, head(2, 9), [later])


def test_nothing_held_is_nothing_lost(memory: Memory) -> None:
    """A new node has nothing to write back."""
    assert not memory.seems_lost(NAME, None)
    assert memory.held(NAME) is None


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_file_is_set_aside(path: Path, content: bytes) -> None:
    """And told; Consul has the messages."""
    path.parent.mkdir()
    path.write_bytes(content)
    with closing(Memory(path)) as memory:
        assert "set aside as" in memory.trouble
        memory.remember(NAME, head(1), [message(1)])
        assert numbers(memory) == [1]
    assert [one.read_bytes() for one in path.parent.glob(f"{FILE}.damaged-*")] == [content]


def test_a_damaged_file_is_not_kept_for_ever(path: Path) -> None:
    """It has payloads that somebody may have forgotten on purpose."""
    path.parent.mkdir()
    aside = path.with_name(f"{FILE}.damaged-20260101T000000Z")
    aside.write_bytes(b"x")
    os.utime(aside, (NOW, NOW))
    Memory(path, lambda: NOW + 6 * 86400).close()
    assert aside.exists()

    Memory(path, lambda: NOW + 8 * 86400).close()
    assert not aside.exists()


def test_a_file_of_another_format_is_set_aside(path: Path, memory: Memory) -> None:
    """A newer agentd may have written it."""
    memory.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    with closing(Memory(path)) as later:
        assert "format 7" in later.trouble


def test_damage_while_it_is_open_costs_no_number(path: Path, memory: Memory) -> None:
    """The next call finds a new file, with the numbers that were reached."""
    memory.remember(NAME, head(*range(1, 400)), [message(n) for n in range(1, 400)])
    memory._file.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    memory._file._connection.execute("PRAGMA cache_size=0")
    memory._file._connection.execute("PRAGMA shrink_memory")
    with pytest.raises(JournalError):
        memory.held(NAME)
    assert "set aside" in memory.trouble
    assert memory.highest(NAME) == 399
    memory.remember(NAME, head(400), [message(400)])
    assert numbers(memory) == [400]
    memory.close()
    with closing(Memory(path)) as later:
        assert later.highest(NAME) == 400


def test_what_cannot_be_opened_is_told(path: Path) -> None:
    """By whoever asks; the daemon goes on without, and it is opened once it can be: for this fleet only."""
    with closing(Memory(path)) as before:
        before.belong_to("staging@")
        before.remember(NAME, head(1), [message(1)])
    state = path.parent.rename(path.parent.with_name("away"))
    path.parent.write_bytes(b"a file")
    with closing(Memory(path)) as memory:
        for _ in range(2):
            with pytest.raises(JournalError, match="out of reach"):
                memory.held(NAME)
        with pytest.raises(JournalError, match="out of reach"):
            memory.belong_to("prod@")

        path.parent.unlink()
        state.rename(path.parent)
        assert memory.held(NAME) is None
        memory.remember(NAME, head(2), [message(2)])
        assert numbers(memory) == [2]


def test_a_fifo_is_no_file(path: Path) -> None:
    """SQLite would wait for it for ever."""
    path.parent.mkdir()
    os.mkfifo(path)
    with closing(Memory(path)) as memory:
        assert "not a file" in memory.trouble


def test_a_row_that_cannot_be_read_is_left_out(memory: Memory) -> None:
    """The others are written back."""
    memory.remember(NAME, head(1, 2), [message(1), replace(message(2), raw=b"junk")])
    assert numbers(memory) == [1]


def test_a_closed_memory_says_so(memory: Memory) -> None:
    """It is no error of SQLite's."""
    memory.close()
    with pytest.raises(JournalError):
        memory.held(NAME)


def test_held_is_enough_to_write_back(memory: Memory) -> None:
    """With the keep of the log."""
    memory.remember(NAME, head(1), [message(1)])
    assert memory.held(NAME) == Held(head(1), [message(1)])


def test_of_another_fleet_nothing_is_held(memory: Memory) -> None:
    """Or a node that moves from staging to production would write the one log into the other."""
    memory.belong_to("staging@")
    memory.remember(NAME, head(1, 2), [message(1), message(2)], {"0" * 64: b"x"})
    memory.belong_to("staging@")
    assert numbers(memory) == [1, 2]

    memory.belong_to("prod@")

    assert (memory.held(NAME), memory.highest(NAME), memory.names()) == (None, 0, ())
    assert memory.body("0" * 64) is None


def test_what_came_into_the_log_below_what_was_read_is_found(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known where the oldest had to go."""
    memory.remember(NAME, head(1, 4), [message(1), message(4)])
    assert memory.unread(NAME, head(1, 4), [1, 4]) == []
    assert memory.unread(NAME, head(1, 2, 3, 4), [1, 2, 3, 4, 9]) == [2, 3]
    assert memory.unread(NAME, head(3, 4, base=2), [2, 3, 4]) == [3]

    monkeypatch.setattr(memory_module, "MOST_OF_NAME", 2)
    assert memory.unread(NAME, head(1, 2, 3, 4), [1, 2, 3, 4]) == []


@pytest.mark.parametrize("mark", ["floor", "base"])
def test_what_was_pruned_and_is_put_back_is_not_unread(memory: Memory, mark: str) -> None:
    """Whoever may write the head can set its marks back, and the messages are still signed."""
    memory.remember(NAME, head(1, 2), [message(1), message(2)])
    memory.remember(NAME, head(3, 4, **{mark: 2}), [message(4)])

    assert memory.unread(NAME, head(1, 2, 3, 4), [1, 2, 3, 4]) == [3]
    memory.note(NAME, head(1, 2, 4))
    assert memory.pruned(NAME) == 2


def test_what_this_node_wrote_is_held_and_still_to_be_read(path: Path) -> None:
    """Nobody else could write it back; but its handlers get only what is read."""
    now = [NOW]
    with closing(Memory(path, lambda: now[0])) as memory:
        memory.wrote(NAME, "all", [message(2)])
        memory.remember(NAME, head(1, 3), [message(1), message(3)])
        assert numbers(memory) == [1, 2, 3]
        assert memory.unread(NAME, head(1, 2, 3), [1, 2, 3]) == [2]
        memory.remember(NAME, head(1, 2, 3), [message(2)])
        assert memory.unread(NAME, head(1, 2, 3), [1, 2, 3]) == []
        memory.wrote(NAME, "all", [message(2)])  # the follower was quicker
        assert memory.unread(NAME, head(1, 2, 3), [1, 2, 3]) == []


def test_what_this_node_just_wrote_does_not_seem_lost_at_once(path: Path) -> None:
    """The head that the follower looks at may be the one before."""
    now = [NOW]
    with closing(Memory(path, lambda: now[0])) as memory:
        memory.remember(NAME, head(1), [message(1)])
        memory.wrote(NAME, "all", [message(2)])
        assert not memory.seems_lost(NAME, head(1))
        now[0] += 6.0
        assert memory.seems_lost(NAME, head(1))


def test_what_was_only_written_does_not_count_as_a_log_that_was_read(memory: Memory) -> None:
    """A node whose memory is new still reads all of it."""
    memory.wrote(NAME, "all", [message(2)])
    assert not memory.holds(NAME)
    assert numbers(memory) == [2]
    memory.drop(NAME)
    assert numbers(memory) == []


def test_a_replaced_message_leaves_the_files(path: Path, memory: Memory) -> None:
    """Also the write-ahead log: it may be sealed, and whoever gets the key later could open it."""
    first, second = message(1, body=OLD), message(2)
    memory.remember(NAME, replace(head(1), keep="latest"), [first])
    assert any(first.raw in file.read_bytes() for file in path.parent.iterdir())

    memory.remember(NAME, replace(head(2, base=1), keep="latest"), [second])

    assert not any(base64.b64encode(OLD)[:40] in file.read_bytes() for file in path.parent.iterdir())
    assert numbers(memory) == [2]


def test_the_messages_of_a_name_that_is_dropped_leave_the_files(path: Path, memory: Memory) -> None:
    """As those of one that is replaced."""
    first = message(1, body=OLD)
    memory.remember(NAME, head(1), [first])

    memory.drop(NAME)

    assert not any(base64.b64encode(OLD)[:40] in file.read_bytes() for file in path.parent.iterdir())
