"""What commands read of the daemon beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.commands.places import daemon_runs


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_lock_is_nobodys(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nor is it waited for."""
    make(tmp_path / "agentd.lock")

    assert not daemon_runs(tmp_path)
