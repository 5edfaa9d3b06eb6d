"""The file that says which handlers take nothing new."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import AgentdError, JournalError
from agentd.journal.pauses import EVERY, FILE, Paused, Pauses, _parse, _rendered
from agentd.printable import printable
from tests.unit.apply.stand import Clock


@pytest.fixture
def clock() -> Clock:
    """It stands still."""
    return Clock()


@pytest.fixture
def pauses(tmp_path: Path, clock: Clock) -> Pauses:
    """Of a node that has not run yet."""
    return Pauses(tmp_path / "state", clock, clock)


def test_nothing_is_paused_at_first(pauses: Pauses) -> None:
    """Neither without the file nor without its directory."""
    assert (pauses.of("a"), pauses.every()) == (None, {})


def test_a_pause_is_seen_by_others_and_only_by_its_owner(pauses: Pauses, clock: Clock) -> None:
    """Whoever looks reads it anew; nobody else may."""
    other = Pauses(pauses.path.parent, clock, clock)
    assert other.of("a") is None
    paused = pauses.pause(["a", "b"], "why", 60)

    assert other.of("a") == other.of("b") == paused == Paused(clock.now, clock.now + 60, "why")
    assert other.of("c") is None
    assert stat.S_IMODE(pauses.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(pauses.path.parent.stat().st_mode) == 0o700
    assert [one.name for one in pauses.path.parent.iterdir()] == [FILE]


def test_resuming_ends_what_was_asked_for(pauses: Pauses) -> None:
    """And removes the file with the last one."""
    pauses.pause(["a", "b"], "", None)

    assert list(pauses.resume(["a", "x"])) == ["a"]
    assert list(pauses.every()) == ["b"]
    assert list(pauses.resume(None)) == ["b"]
    assert not pauses.path.exists()
    assert pauses.resume(None) == {}


def test_every_handler_may_be_paused(pauses: Pauses) -> None:
    """Also one that comes later; resuming one leaves the others paused."""
    pauses.pause([EVERY], "all", None)
    later = pauses.of("later")
    pauses.resume(["a"], among=["a", "b", "c"])

    assert later is not None
    assert sorted(pauses.every()) == ["b", "c"]


def test_a_pause_ends_by_itself_and_leaves_the_others(pauses: Pauses, clock: Clock) -> None:
    """The next command forgets it."""
    pauses.pause(["a"], "", 10)
    pauses.pause(["b"], "", None)
    clock.now += 10

    assert list(pauses.every()) == ["b"]
    assert pauses.resume(["a"]) == {}


@pytest.mark.parametrize("off", [-1e7, 1e7])
def test_no_clock_makes_a_pause_longer(pauses: Pauses, clock: Clock, tmp_path: Path, off: float) -> None:
    """A day that was wrong when it began, or is now, is not waited for."""
    timer = Clock()
    pauses.pause(["a"], "", 10)
    clock.now += off
    looking = Pauses(tmp_path / "state", clock, timer)
    looking.of("a")
    timer.now += 10

    assert looking.of("a") is None


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"format": 1}',
            b'{"format": 2, "handlers": {}}',
            b"\xff",
            b"9" * 9999,
        ),
        b'{"format": 1, "handlers": {"a": 5}}',
        b'{"format": 1, "handlers": {"a": {"since": "x", "until": null, "reason": ""}}}',
        b'{"format": 1, "handlers": {"a": {"since": 1, "until": Infinity, "reason": ""}}}',
        b'{"format": 1, "handlers": {"a": {"since": true, "until": null, "reason": ""}}}',
        b'{"format": 1, "handlers": {"a": {"since": 1, "until": null, "reason": 7}}}',
        b"[" * 100_000,
        b" " * 300_000,
    ],
)
def test_what_cannot_be_read_pauses_everything(pauses: Pauses, data: bytes) -> None:
    """Nobody knows what is to wait; the text says how to go on, and that works."""
    pauses.path.parent.mkdir()
    pauses.path.write_bytes(data)
    found = pauses.of("any")

    assert found is not None
    assert "`agentd resume`" in found.reason
    assert str(pauses.path) in found.reason
    assert pauses.of("any") == found
    with pytest.raises(AgentdError, match="agentd resume"):
        pauses.pause(["a"], "", None)
    pauses.resume(None)
    assert pauses.of("any") is None


def test_a_link_or_a_pipe_is_not_followed(pauses: Pauses, tmp_path: Path) -> None:
    """It is none of ours, and reading it might never end."""
    pauses.path.parent.mkdir()
    (tmp_path / "other").write_text('{"format": 1, "handlers": {}}')
    pauses.path.symlink_to(tmp_path / "other")
    linked = pauses.of("a")
    pauses.path.unlink()
    os.mkfifo(pauses.path)

    assert linked is not None
    assert pauses.of("a") is not None


def test_a_full_disk_changes_nothing(pauses: Pauses, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was paused stays so; the error says where."""
    pauses.pause(["a"], "", None)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JournalError, match=r"paused\.json.*No space left"):
        pauses.pause(["b"], "", None)
    monkeypatch.undo()

    assert list(pauses.every()) == ["a"]
    assert [one.name for one in pauses.path.parent.iterdir()] == [FILE]


def test_commands_at_the_same_time_lose_nothing(pauses: Pauses, clock: Clock) -> None:
    """Each changes what the other wrote."""
    threads = [
        threading.Thread(target=Pauses(pauses.path.parent, clock, clock).pause, args=([f"h{at}"], "", None))
        for at in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(pauses.every()) == [f"h{at}" for at in range(8)]


@given(st.text(max_size=200), st.one_of(st.none(), st.floats(0, 1e9)))
def test_a_pause_is_read_as_it_was_written(reason: str, seconds: float | None) -> None:
    """Whatever the reason: control characters of it are escaped."""
    written = Paused(5.0, None if seconds is None else 5.0 + seconds, reason)
    (read,) = _parse(_rendered({"a": written})).values()

    assert (read.since, read.until) == (written.since, written.until)
    assert read.reason == printable(reason)[:200]
