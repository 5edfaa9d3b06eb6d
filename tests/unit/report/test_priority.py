"""Lines tell the journal how serious they are, and nobody else."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from agentd.priority import goes_to_journal, prefixed
from agentd.report import log


class Journal:
    """A socket in place of the journal's, and a stream into it as a service has it."""

    def __init__(self) -> None:
        self._reader, writer = socket.socketpair()
        self.stream: TextIO = os.fdopen(writer.detach(), "w")
        found = os.fstat(self.stream.fileno())
        self.name = f"{found.st_dev}:{found.st_ino}"

    def read(self) -> str:
        """What was written, once the stream is closed."""
        self.stream.close()
        with self._reader.makefile() as file:
            return file.read()

    def close(self) -> None:
        """Both ends."""
        self.stream.close()
        self._reader.close()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """It is named in the environment."""
    made = Journal()
    monkeypatch.setenv("JOURNAL_STREAM", made.name)
    yield made
    made.close()


@pytest.mark.usefixtures("restored_logging")
def test_each_level_has_its_priority(journal: Journal) -> None:
    """As sd-daemon(3) numbers them."""
    log.configure("debug", stream=journal.stream)
    logger = structlog.get_logger()

    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)("said")
    try:
        raise ValueError("broken")  # noqa: TRY301 (an error to log)
    except ValueError:
        logger.exception("failed")

    assert [line[:4] for line in journal.read().splitlines()] == [
        "<7>{",
        "<6>{",
        "<4>{",
        "<3>{",
        "<2>{",
        "<3>{",
    ]


@pytest.mark.usefixtures("restored_logging")
def test_each_line_of_a_traceback_has_it(journal: Journal) -> None:
    """As text (`log: {format: text}`) it is several entries of the journal."""
    log.configure(json=False, stream=journal.stream)

    try:
        raise ValueError("first\nsecond")  # noqa: TRY301 (an error to log)
    except ValueError:
        structlog.get_logger().exception("failed")

    lines = journal.read().splitlines()
    assert len(lines) > 3
    assert {line[:3] for line in lines} == {"<3>"}


@pytest.mark.parametrize("told", [None, "", "1:2", "garbage"])
def test_a_stream_that_is_not_the_journals_has_none(told: str | None) -> None:
    """The variable is inherited by programs whose output goes elsewhere."""
    with open(os.devnull, "w") as stream:  # noqa: PTH123 (a stream)
        assert not goes_to_journal(stream, {} if told is None else {"JOURNAL_STREAM": told})


def test_a_stream_without_a_file_has_none(journal: Journal) -> None:
    """In a test, or once it was closed."""
    assert not goes_to_journal(io.StringIO())
    journal.stream.close()
    assert not goes_to_journal(journal.stream)


def test_an_empty_line_keeps_its_place() -> None:
    """Text is only marked, never changed."""
    assert prefixed("a\n\nb", "warning") == "<4>a\n<4>\n<4>b"


@pytest.mark.parametrize(
    "program",
    ["main(['status', '--config', '/nonexistent'])", "main(['check']); raise RuntimeError('unforeseen')"],
    ids=["error", "traceback"],
)
def test_what_ends_a_command_is_an_error(program: str, journal: Journal, tmp_path: Path) -> None:
    """Before the log is set up, as with a configuration that cannot be read, and after all else failed."""
    code = f"from agentd.cli import main; {program}"
    environ = {"AGENTD_CONFIG": str(tmp_path / "absent.yaml"), "JOURNAL_STREAM": journal.name}
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environ, stderr=journal.stream, check=False, timeout=60
    )

    lines = journal.read().splitlines()
    assert lines
    assert {line[:3] for line in lines} == {"<3>"}
