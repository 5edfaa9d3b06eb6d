"""What these tests share: a log that remembers, an deadline, and sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.sources.download import Download
from agentd.sources.reference import Digest


@pytest.fixture
def new_download(tmp_path: Path) -> Iterator[Callable[..., Download]]:
    """Make sinks: `new_download(max_size=..., digest=...)`. They are closed at the end."""
    with ExitStack() as stack:

        def make(max_size: int = 1_000_000, digest: Digest | None = None) -> Download:
            path = tmp_path / f"download-{len(list(tmp_path.iterdir()))}"
            return stack.enter_context(Download(path, "test", max_size=max_size, digest=digest))

        yield make
