"""What these tests share: a log that remembers, an allowance, and sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.sink import Sink
from agentd.reference import Digest
from agentd.testing.staging import RecordedLog


@pytest.fixture
def log() -> RecordedLog:
    """A log that remembers."""
    return RecordedLog()


@pytest.fixture
def allowance(log: RecordedLog) -> Allowance:
    """Plenty of time."""
    return Allowance("test", 30.0, log=log)


@pytest.fixture
def new_sink(tmp_path: Path) -> Iterator[Callable[..., Sink]]:
    """Make sinks: `new_sink(max_size=..., digest=...)`. They are closed at the end."""
    with ExitStack() as stack:

        def make(max_size: int = 1_000_000, digest: Digest | None = None) -> Sink:
            path = tmp_path / f"sink-{len(list(tmp_path.iterdir()))}"
            return stack.enter_context(Sink(path, "test", max_size=max_size, digest=digest))

        yield make
