"""Commands on a real terminal, in a pipe, and interrupted: in processes of their own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from agentd.journal.entry import Outcome
from tests.unit.commands.node import CommandNode

REASON = f"{'word ' * 60}end"
COMMAND = [sys.executable, "-m", "agentd"]


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with one change that failed for a long reason."""
    made = CommandNode(tmp_path, capsys)
    made.end(made.receive(), Outcome.FAILED, REASON)
    return made


def environment(node: CommandNode) -> dict[str, str]:
    """For a command on the node."""
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return inherited | {"AGENTD_CONFIG": str(node.file), "NO_COLOR": "1"}


def on_a_terminal(node: CommandNode, columns: int, *argv: str) -> list[str]:
    """The lines that a command prints on a terminal that is so wide."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([*COMMAND, *argv], stdout=theirs, stdin=theirs, env=environment(node))
    os.close(theirs)
    printed = b""
    try:
        while read := os.read(ours, 65536):
            printed += read
    except OSError:  # how a terminal says that nobody writes any more
        pass
    finally:
        os.close(ours)
        process.wait()
    return printed.decode().splitlines()


def in_a_pipe(node: CommandNode, *argv: str) -> list[str]:
    """The lines that a command prints into a pipe."""
    return subprocess.check_output([*COMMAND, *argv], text=True, env=environment(node)).splitlines()


def test_a_terminal_cuts_and_a_pipe_does_not(node: CommandNode) -> None:
    """To its width, and so that one sees it; the ID stays long enough for every command."""
    head, row = on_a_terminal(node, 100, "history")
    assert head.split() == ["TIME", "HANDLER", "CHANGE", "ID", "OUTCOME", "REASON"]
    assert len(row) == 100
    assert row.endswith("...")
    assert " 00000001 " in row
    _, row = in_a_pipe(node, "history")
    assert row.endswith(REASON)
    assert " 00000001-0000-4000-8000-000000000000 " in row


def test_following_ends_by_ctrl_c_without_a_traceback(node: CommandNode) -> None:
    """After what it has printed so far; a shell sees that it was interrupted."""
    following = subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, "history", "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(node),
    )  # fmt: skip
    with following as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["reason"] == REASON
        node.end(node.receive(number=2), Outcome.APPLIED)
        assert json.loads(process.stdout.readline())["outcome"] == "applied"
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    assert (process.returncode, rest, error) == (130, "", "")


def test_following_ends_when_its_reader_has_seen_enough(node: CommandNode) -> None:
    """As `agentd history --follow | head -1`, though nothing else ends."""
    following = subprocess.Popen(
        [*COMMAND, "history", "--follow"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(node),
    )  # fmt: skip
    with following as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("TIME")
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
