"""The most memory that a process and all its descendants had at one time."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_PAUSE = 0.1


class Peak:
    """Looks ten times a second while it is open. Pages that several processes share count once for each."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most = pid, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        """The peak, in units of 10^6 bytes."""
        return self._most / 1e6

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE):
            self._most = max(self._most, resident(self._pid))


def resident(pid: int, *, descendants: bool = True) -> int:
    """Resident bytes of a process and, if wanted, its descendants; those that end meanwhile count nothing."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)
    if not descendants:
        return own
    return own + sum(resident(int(child)) for group in children for child in group)
