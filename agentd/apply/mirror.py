"""A second copy of the current generation, from which a deleted tree is restored.

It owns its directory, which lies in the state directory and has the tree's own shape: `current -> 000042`.
It must not matter to a commit: a mirror that cannot be written is reported, and the commit stands.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog

from agentd.apply import candidate, disk
from agentd.apply.manifest import View
from agentd.errors import TreeError

_log = structlog.get_logger(__name__)


class Mirror:
    """The copy in `path`; with None there is never one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def refresh(self, view: View) -> None:
        """Hold this generation instead of the one before; a failure is logged."""
        if self._path is None:
            return
        try:
            disk.make_directory(self._path, 0o700)
            candidate.replicate(view, self._path, durable=False)
            disk.point(self._path / "current", candidate.name(view.number))
            disk.sweep(self._path)
            for entry in self._path.iterdir():
                if candidate.number_of(entry.name) not in {0, view.number}:
                    disk.discard(entry)
        except OSError as error:
            _log.warning("tree.mirror_failed", path=str(self._path), error=str(error))

    @property
    def number(self) -> int:
        """The generation that is held, 0 if none."""
        with suppress(OSError):
            if self._path is not None:
                return candidate.number_of((self._path / "current").readlink().name)
        return 0

    def view(self) -> View | None:
        """The generation that is held, proved to be undamaged, or None if none is held.

        Raises:
            TreeError: it is damaged.
        """
        number = self.number
        if self._path is None or number == 0:
            return None
        try:
            view = View.open(self._path / candidate.name(number))
            genuine = view.number == number and view.genuine()
        except (OSError, ValueError) as error:
            raise TreeError(
                f"the copy of generation {number} in {self._path} cannot be read: {error}"
            ) from error
        if not genuine:
            raise TreeError(
                f"the copy of generation {number} in {self._path} is damaged: delete that directory"
            )
        return view
