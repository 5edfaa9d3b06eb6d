"""What `agentd lock` does when things go wrong around the command; Consul is in memory."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path

import pytest

from agentd.commands.inbox import Inbox, Message
from agentd.commands.lock import _acquire, _run
from agentd.commands.narrator import Narrator
from agentd.errors import AgentdError
from agentd.fleet.lock import Lock
from tests.unit.fleet.fake import FakeConsul, FakeStore


@pytest.fixture
def consul() -> FakeConsul:
    """An empty one."""
    return FakeConsul()


@pytest.fixture
def lock(consul: FakeConsul) -> Lock:
    """A lock that nobody has."""
    return Lock(FakeStore(consul), "p", timeout=5)


@pytest.fixture
def said() -> io.StringIO:
    """Standard error."""
    return io.StringIO()


@pytest.fixture
def narrator(said: io.StringIO) -> Narrator:
    """Tells to it."""
    return Narrator(said, as_json=False, verbose=False)


def test_command_that_cannot_be_started_gives_the_lock_back(
    lock: Lock, consul: FakeConsul, narrator: Narrator
) -> None:
    """No key and no session stays."""
    lock.acquire()
    with pytest.raises(AgentdError, match="cannot be started"):
        _run(lock, ["/etc/passwd"], Inbox(()), narrator)
    assert (consul.pairs, consul.sessions) == ({}, {})


def test_command_does_not_begin_under_a_lock_that_is_lost_already(
    lock: Lock, consul: FakeConsul, narrator: Narrator, said: io.StringIO, tmp_path: Path
) -> None:
    """It was lost between its acquisition and the start."""
    lost = threading.Event()
    lock.on_lost = lambda _: lost.set()
    lock.acquire()
    consul.remove(lock.guard)
    assert lost.wait(5)
    assert _run(lock, ["touch", str(tmp_path / "ran")], Inbox(()), narrator) == 1
    assert "was lost" in said.getvalue()
    assert not (tmp_path / "ran").exists()


def test_lock_that_cannot_be_released_does_not_spoil_the_commands_success(
    lock: Lock, consul: FakeConsul, narrator: Narrator, said: io.StringIO
) -> None:
    """The work is done under the lock; that it ends only with its TTL is told."""
    lock.acquire()
    consul.down = True
    assert _run(lock, ["true"], Inbox(()), narrator) == 0
    assert "ends with its TTL" in said.getvalue()


def test_signal_that_comes_with_the_lock_gives_it_back(
    lock: Lock, consul: FakeConsul, narrator: Narrator
) -> None:
    """The wait was over when it was to be given up."""
    inbox = Inbox(())
    lock.cancel = lambda: None  # type: ignore[method-assign] # too late, as in the race
    inbox.put(Message("signal", number=signal.SIGTERM))
    assert _acquire(lock, inbox, narrator) == 143
    assert (consul.pairs, consul.sessions) == ({}, {})


def test_inbox_puts_the_signal_handlers_back() -> None:
    """What it does with them ends with it."""
    before = signal.getsignal(signal.SIGUSR1)
    with Inbox((signal.SIGUSR1,)) as inbox:
        signal.raise_signal(signal.SIGUSR1)
        assert inbox.get() == Message("signal", number=signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before
