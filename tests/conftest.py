"""What all tests share: Hypothesis's settings, and the marker of those that need servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.examples import LOOKS

_ROOT = Path(__file__).parent.parent

settings.register_profile(
    "agentd",
    # Enough for every run of the suite; `HYPOTHESIS_EXAMPLES=1000 scripts/test tests/unit` looks deeper.
    max_examples=LOOKS or 20,
    # A shared two-core machine is no judge of how long one example may take.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=DirectoryBasedExampleDatabase(_ROOT / ".cache" / "hypothesis"),
)
settings.load_profile("agentd")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Coverage is measured in the workers alone: what they start would take half as long again.
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/integration, so that `-m 'not integration'` works."""
    for item in items:
        if item.path.is_relative_to(_ROOT / "tests" / "integration"):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def _default_log() -> None:
    """Each test begins with structlog as it comes, whatever a command configured in the test before it."""
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU readline sets COLUMNS for all processes that a program starts, such as pytest's workers."""
    monkeypatch.delenv("COLUMNS", raising=False)
