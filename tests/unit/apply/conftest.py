"""Fixtures of the core's tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.apply.stand import Stand

_MEMORY = Path("/dev/shm")
ROOM = _MEMORY if os.access(_MEMORY, os.W_OK) else None
"""Where the core's files lie in tests: in memory if possible, since each commit waits for the disk."""


@pytest.fixture
def stand() -> Iterator[Stand]:
    """The core in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="agentd-", dir=ROOM) as directory:
        made = Stand(Path(directory))
        yield made
        made.journal.close()
