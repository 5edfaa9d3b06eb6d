"""What a running command says on standard error: its steps, and how far it has come."""

from __future__ import annotations

import io
import json

import pytest

from agentd.commands.progress import ProgressBar, Steps


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_bar_grows_with_each_server_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over itself."""
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    bar = ProgressBar(terminal, total=4, done=1, as_json=False)
    bar.tell("10.0.0.1:80", "done", "")
    bar.finish()
    assert terminal.getvalue() == "\r\033[K[############------------] 2/4 10.0.0.1:80 done\r\033[K"


def test_failure_stays_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line of its own, whole, with nothing that steers a terminal; the bar is cut to one line."""
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    ProgressBar(terminal, total=1, done=0, as_json=False).tell("a:1", "failed", "x" * 50 + "\033[2J")
    lasting, bar = terminal.getvalue().split("\n")
    assert lasting == f"\r\033[Ka:1 failed: {'x' * 50}\\x1b[2J"
    assert len(bar.removeprefix("\r\033[K")) == 39


def test_command_begins_on_a_line_of_its_own() -> None:
    """It may print."""
    terminal = Terminal()
    ProgressBar(terminal, total=1, done=0, as_json=False).tell("a:1", "deploying", "")
    assert terminal.getvalue().endswith("deploying\n")


def test_elsewhere_each_step_is_a_line() -> None:
    """For a log; `finish` adds nothing."""
    stream = io.StringIO()
    bar = ProgressBar(stream, total=1, done=0, as_json=False)
    bar.tell("a:1", "failed", "why")
    bar.finish()
    assert stream.getvalue() == "agentd: a:1 failed: why\n"


def test_json_is_an_object_a_line() -> None:
    """Even on a terminal."""
    terminal = Terminal()
    ProgressBar(terminal, total=1, done=0, as_json=True).tell("a:1", "done", "")
    assert json.loads(terminal.getvalue())["step"] == "done"


def test_steps_are_told_only_if_asked_for() -> None:
    """Warnings always."""
    stream = io.StringIO()
    steps = Steps(stream, as_json=False, verbose=False)
    steps.tell("lock.acquired", prefix="p")
    steps.warn("lost")
    assert stream.getvalue() == "agentd: lost\n"


def test_steps_are_lines_for_a_person() -> None:
    """Name and fields; control characters are escaped."""
    stream = io.StringIO()
    Steps(stream, as_json=False, verbose=True).tell("lock.acquired", prefix="p\x1b", n=1)
    assert stream.getvalue() == "agentd: lock.acquired prefix=p\\x1b n=1\n"


def test_each_line_is_one_json_object_for_a_program() -> None:
    """Steps and warnings alike."""
    stream = io.StringIO()
    steps = Steps(stream, as_json=True, verbose=False)
    steps.tell("lock.acquired", prefix="p")
    steps.warn("lost")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "lock.acquired", "prefix": "p"},
        {"event": "warning", "text": "lost"},
    ]


class Broken(io.StringIO):
    """A pipe that nobody reads from."""

    def write(self, _: str) -> int:
        """Fail as such a pipe does."""
        raise BrokenPipeError


def test_nobody_listening_is_no_error() -> None:
    """The lock must be given back all the same."""
    steps = Steps(Broken(), as_json=False, verbose=False)
    steps.warn("lost")
