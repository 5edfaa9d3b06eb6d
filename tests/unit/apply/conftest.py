"""Fixtures of the core's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.apply.stand import Stand


@pytest.fixture()
def stand(tmp_path: Path) -> Iterator[Stand]:
    """The core in a temporary directory."""
    made = Stand(tmp_path)
    yield made
    made.journal.close()
