"""A fetcher for tests on real servers."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from agentd.sources.fetcher import Fetcher, ReadKey, Sources
from agentd.sources.options import SourceOptions
from agentd.testing.staging import RecordedLog


def new_fetcher(
    directory: Path,
    *allow: str,
    seconds: float = 120.0,
    stop: threading.Event | None = None,
    read_key: ReadKey | None = None,
    **options: Any,  # noqa: ANN401 - SourceOptions' own
) -> Fetcher:
    """A fetcher that may name these prefixes, for `seconds`."""
    given = SourceOptions.model_validate({"allow": allow, **options})
    read = {"read_key": read_key} if read_key else {}
    sources = Sources(given, directory / "fetched", **read)
    return Fetcher(sources, sources.new_directory(), time.monotonic() + seconds, RecordedLog(), stop)
