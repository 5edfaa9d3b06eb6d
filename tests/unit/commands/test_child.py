"""The command in a group of its own: its status, its end, and that it does not outlive us. Real processes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentd.commands.child import Child
from agentd.errors import AgentdError
from tests.servers.waiting import wait_until

NewCommand = Callable[..., Child]


@pytest.fixture
def exited() -> threading.Event:
    """Set when a command has told its end."""
    return threading.Event()


@pytest.fixture
def new_command(exited: threading.Event) -> Iterator[NewCommand]:
    """Start `sh -c SCRIPT`; what still runs at the end is killed."""
    made: list[Child] = []

    def make(script: str, **environment: str) -> Child:
        made.append(Child(["sh", "-c", script], environment, exited.set))
        return made[-1]

    yield make
    for command in made:
        command.signal(signal.SIGKILL)
        exited.wait(60)
        command.__exit__(None, None, None)


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_in(file: Path) -> int:
    """The pid that a script wrote into the file, once it has."""
    return int(wait_until(lambda: file.exists() and file.read_text().strip(), f"a pid in {file}"))


@pytest.mark.parametrize("script,status", [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_status_is_as_a_shell_tells_it(
    new_command: NewCommand, exited: threading.Event, script: str, status: int
) -> None:
    """128 and the number for a signal."""
    with new_command(script) as command:
        assert exited.wait(60)
    assert command.status == status


def test_environment_is_ours_and_more(
    new_command: NewCommand, exited: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operator has set goes on to the command."""
    monkeypatch.setenv("GIVEN", "a")
    with new_command('[ "$GIVEN$ADDED" = ab ]', ADDED="b") as command:
        assert exited.wait(60)
    assert command.status == 0


def test_signal_reaches_the_command_and_not_its_guard(
    new_command: NewCommand, exited: threading.Event, tmp_path: Path
) -> None:
    """Afterwards the guard still stands."""
    ready = tmp_path / "ready"
    with new_command(f"trap 'exit 9' USR1; echo $$ >{ready}; while :; do sleep 0.05; done") as command:
        pid_in(ready)
        command.signal(signal.SIGUSR1)
        assert exited.wait(60)
        assert command._guard.poll() is None
    assert command.status == 9
    assert command._guard.returncode == 0


def test_end_takes_the_whole_group(new_command: NewCommand, tmp_path: Path) -> None:
    """SIGTERM is enough for those who listen to it, and takes no grace."""
    child = tmp_path / "child"
    command = new_command(f"sleep 60 & echo $! >{child}; wait")
    pid = pid_in(child)
    command.end()
    assert command.status == 128 + signal.SIGTERM
    wait_until(lambda: not lives(pid), "the child's end")


def test_end_kills_what_ignores_sigterm(
    new_command: NewCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace, which is short here."""
    monkeypatch.setattr("agentd.commands.child.GRACE", 0.1)
    child = tmp_path / "child"
    command = new_command(f"trap '' TERM; sleep 60 & echo $! >{child}; wait; exit 1")
    pid = pid_in(child)
    command.end()
    assert command.status == 128 + signal.SIGKILL
    wait_until(lambda: not lives(pid), "the child's end")


def test_end_waits_for_the_children_of_a_command_that_ended_first(
    new_command: NewCommand, tmp_path: Path
) -> None:
    """They get the same grace to clean up."""
    ready, cleaned = tmp_path / "ready", tmp_path / "cleaned"
    worker = f"trap 'sleep 0.2; echo done >{cleaned}; exit' TERM; echo $$ >{ready}; sleep 60 & wait"
    command = new_command(f'sh -c "{worker}" & wait')
    pid_in(ready)
    command.end()
    assert cleaned.read_text() == "done\n"


def test_stopped_command_is_ended_as_well(new_command: NewCommand, tmp_path: Path) -> None:
    """One that is stopped does not hear SIGTERM until it goes on."""
    ready = tmp_path / "ready"
    command = new_command(f"echo $$ >{ready}; kill -STOP $$; exit 0")
    pid_in(ready)
    command.end()
    assert command.status == 128 + signal.SIGTERM


def test_error_inside_the_block_ends_the_command(new_command: NewCommand, exited: threading.Event) -> None:
    """Nobody would watch over it any more."""
    with pytest.raises(ZeroDivisionError), new_command("sleep 60"):
        raise ZeroDivisionError
    assert exited.is_set()


def test_background_process_of_a_command_that_ended_well_is_left_alone(
    new_command: NewCommand, exited: threading.Event, tmp_path: Path
) -> None:
    """As with any other program that starts one."""
    child = tmp_path / "child"
    with new_command(f"sleep 60 & echo $! >{child}"):
        assert exited.wait(60)
    pid = pid_in(child)
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["true", "\0"]])
def test_command_that_cannot_be_started_is_an_error(argv: list[str]) -> None:
    """And leaves no guard behind."""
    before = threading.active_count()
    with pytest.raises(AgentdError, match="cannot be started"):
        Child(argv, {}, print)
    assert threading.active_count() == before
    with suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG)[0] == 0


class Terminal(io.StringIO):
    """Standard input from a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_terminal_is_not_handed_on(
    new_command: NewCommand, exited: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is not the terminal's own would be stopped when it reads; it finds the end instead."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    with new_command("read -r line || exit 3") as command:
        assert exited.wait(60)
    assert command.status == 3


def test_pipe_is_handed_on() -> None:
    """The command reads what is sent to us."""
    program = (
        "import threading; from agentd.commands.child import Child\n"
        "done = threading.Event()\n"
        "with Child(['cat'], {}, done.set): done.wait(60)"
    )
    argv = [sys.executable, "-c", program]
    assert subprocess.run(argv, input=b"sent", capture_output=True, check=True, timeout=60).stdout == b"sent"


def test_command_does_not_outlive_us(tmp_path: Path) -> None:
    """SIGKILL of the process that started it ends the command and its children."""
    child = tmp_path / "child"
    program = (
        "import time; from agentd.commands.child import Child\n"
        f"Child(['sh', '-c', 'sleep 60 & echo $! >{child}; wait'], {{}}, print)\n"
        "time.sleep(60)"
    )
    ours = subprocess.Popen([sys.executable, "-c", program])
    pid = pid_in(child)
    ours.kill()
    ours.wait(60)
    wait_until(lambda: not lives(pid), "the command's end")
