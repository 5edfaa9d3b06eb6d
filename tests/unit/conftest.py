"""Fixtures of several rooms: the core in a temporary directory, a log that remembers, time to spend."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.deadline import Deadline
from agentd.testing.staging import RecordedLog
from tests.unit.apply.stand import Stand

_MEMORY = Path("/dev/shm")
ROOM = Path(tempfile.gettempdir())
"""Where the core's files are in tests: in memory if possible, since each commit waits for the disk."""

if not ROOM.is_relative_to(_MEMORY) and os.access(_MEMORY, os.W_OK):
    ROOM = _MEMORY


@pytest.fixture
def stand() -> Iterator[Stand]:
    """The core in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="agentd-", dir=ROOM) as directory:
        made = Stand(Path(directory))
        yield made
        made.journal.close()


@pytest.fixture
def log() -> RecordedLog:
    """A log that remembers."""
    return RecordedLog()


@pytest.fixture
def deadline(log: RecordedLog) -> Deadline:
    """Plenty of time."""
    return Deadline("test", 30.0, log=log)
