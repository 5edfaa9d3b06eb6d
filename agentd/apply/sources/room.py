"""The private directory of one batch, in which what it fetches lies until it ends."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Final

from agentd.apply import disk
from agentd.errors import TemporaryError

_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME: Final = 100


class Room:
    """A directory, 0700, made below `parent` when first needed; `close` removes it with all that is in it."""

    def __init__(self, parent: Path) -> None:
        self._parent, self._count = parent, 0
        self._scratch: disk.Scratch | None = None
        self._lock = threading.Lock()
        self._closed = False

    def new(self, name: str) -> Path:
        """The path of a file that does not exist yet, whose name ends like `name`.

        Raises:
            TemporaryError: the directory cannot be made, or the batch is over.
        """
        with self._lock:
            if self._closed:  # for a call that was left behind
                raise TemporaryError("the time of this attempt is over")
            try:
                self._scratch = self._scratch or disk.Scratch(self._parent)
            except OSError as error:
                raise TemporaryError(
                    f"cannot make a directory in {self._parent}: {error.strerror}"
                ) from error
            self._count += 1
            return self._scratch.path / f"{self._count:03}-{_ODD.sub('_', name)[-_LONGEST_NAME:]}"

    def close(self) -> None:
        """Remove it; again is no error."""
        with self._lock:
            self._closed = True
            if self._scratch:
                self._scratch.close()
