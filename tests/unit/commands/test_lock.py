"""What `agentd lock` does when things go wrong around the command; Consul is in memory."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path

import pytest

from agentd.cli import main, parse
from agentd.commands.lock import _acquire, _run
from agentd.commands.progress import Steps
from agentd.commands.signals import Message, Signals
from agentd.errors import AgentdError
from agentd.locks.lock import Lock
from tests.unit.locks.fake import FakeConsul, FakeStore


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
def steps(said: io.StringIO) -> Steps:
    """Tells to it."""
    return Steps(said, as_json=False, verbose=False)


def test_command_that_cannot_be_started_gives_the_lock_back(
    lock: Lock, consul: FakeConsul, steps: Steps
) -> None:
    """No key and no session stays."""
    lock.acquire()
    with pytest.raises(AgentdError, match="cannot be started"):
        _run(lock, ["/etc/passwd"], Signals(()), steps)
    assert (consul.pairs, consul.sessions) == ({}, {})


def test_command_does_not_begin_under_a_lock_that_is_lost_already(
    lock: Lock, consul: FakeConsul, steps: Steps, said: io.StringIO, tmp_path: Path
) -> None:
    """It was lost between its acquisition and the start."""
    lost = threading.Event()
    lock.on_lost = lambda _: lost.set()
    lock.acquire()
    consul.remove(lock.guard)
    assert lost.wait(60)
    assert _run(lock, ["touch", str(tmp_path / "ran")], Signals(()), steps) == 1
    assert "was lost" in said.getvalue()
    assert not (tmp_path / "ran").exists()


def test_lock_that_cannot_be_released_does_not_spoil_the_commands_success(
    lock: Lock, consul: FakeConsul, steps: Steps, said: io.StringIO
) -> None:
    """The work is done under the lock; that it ends only with its TTL is told."""
    lock.acquire()
    consul.down = True
    assert _run(lock, ["true"], Signals(()), steps) == 0
    assert "is free once its TTL expires" in said.getvalue()


def test_signal_that_comes_with_the_lock_gives_it_back(lock: Lock, consul: FakeConsul, steps: Steps) -> None:
    """The wait was over when it was to be given up."""
    messages = Signals(())
    lock.cancel = lambda: None  # type: ignore[method-assign] # too late, as in the race
    messages.put(Message("signal", number=signal.SIGTERM))
    assert _acquire(lock, messages, steps) == 143
    assert (consul.pairs, consul.sessions) == ({}, {})


def test_inbox_puts_the_signal_handlers_back() -> None:
    """What it does with them ends with it."""
    before = signal.getsignal(signal.SIGUSR1)
    with Signals((signal.SIGUSR1,)) as messages:
        signal.raise_signal(signal.SIGUSR1)
        assert messages.get() == Message("signal", number=signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize(
    "line,argv",
    [
        (["p", "--", "echo", "-n", "a"], ["echo", "-n", "a"]),
        (["-n", "2", "p", "--timeout", "5s", "--", "echo", "--", "a"], ["echo", "--", "a"]),
        (["p", "--verbose", "--", "--", "a"], ["--", "a"]),
    ],
)
def test_what_follows_the_dashes_is_the_command(line: list[str], argv: list[str]) -> None:
    """As it stands, dashes of its own included."""
    assert parse(["lock", *line])[1].argv == argv


def test_options_stand_on_either_side_of_the_prefix() -> None:
    """And before the command's name those that all commands have."""
    found = parse(["--json", "lock", "/locks/p/", "-n", "3", "--timeout", "1m", "--", "true"])[1]
    assert (found.prefix, found.n, found.timeout, found.json) == ("locks/p", 3, 60.0, True)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["p"],
        ["p", "--"],
        ["p", "true"],
        ["--", "true"],
        ["../p", "--", "true"],
        ["p", "-n", "0", "--", "true"],
        ["p", "--timeout", "soon", "--", "true"],
    ],
)
def test_wrong_usage_ends_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before the configuration is read."""
    with pytest.raises(SystemExit) as ended:
        main(["lock", *line])
    assert ended.value.code == 2
    assert "usage: agentd lock" in capsys.readouterr().err


def test_command_that_is_not_there_ends_with_127(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a shell, and before the lock is taken."""
    assert main(["lock", "p", "--", "no-such-program"]) == 127
    assert capsys.readouterr().err == "agentd: no-such-program cannot be found, or is not executable\n"


def test_consul_that_is_away_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, with the address."""
    file = tmp_path / "agentd.yaml"
    file.write_text(
        f"consul: {{address: unix://{tmp_path}/none.sock}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )
    assert main(["lock", "--config", str(file), "p", "--", "true"]) == 1
    assert f"unix://{tmp_path}/none.sock" in capsys.readouterr().err
