"""What one attempt of a handler sees in the harness: the staged files and the recorded log.

It keeps the tree's rules about paths, modes and owners, in memory. It touches the disk only to read what
`write_file` is given, and to write what `path` returns.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from agentd.handler import PermanentError
from agentd.tree.paths import Layout, check_mode, check_path

_PREFIX: Final = "agentd/current"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that the handler logged."""

    level: str
    event: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class RecordedLog:
    """A logger that keeps what is logged."""

    lines: list[LogLine] = field(default_factory=list)

    def debug(self, event: str, **fields: Any) -> None:  # noqa: ANN401 (structlog's own signature)
        """Keep a line of level debug."""
        self.lines.append(LogLine("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:  # noqa: ANN401 (as above)
        """Keep a line of level info."""
        self.lines.append(LogLine("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:  # noqa: ANN401 (as above)
        """Keep a line of level warning."""
        self.lines.append(LogLine("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:  # noqa: ANN401 (as above)
        """Keep a line of level error."""
        self.lines.append(LogLine("error", event, fields))


class StagedFiles:
    """`Files` in memory: a copy of what is committed, with the changes of one attempt.

    Args:
        committed: path -> (contents, mode) of this handler's files.
        foreign: path -> contents of files that belong to other handlers.
    """

    def __init__(self, committed: Mapping[str, tuple[bytes, int]], foreign: Mapping[str, bytes]) -> None:
        self.staged = dict(committed)
        self._foreign = foreign
        self._layout = Layout((*committed, *foreign))
        self._directory: TemporaryDirectory[str] | None = None
        self._written = 0

    def read(self, path: str) -> bytes | None:
        """See `Files.read`."""
        if path in self.staged:
            return self.staged[path][0]
        return self._foreign.get(path)

    def path(self, path: str) -> Path | None:
        """See `Files.path`."""
        data = self.read(path)
        if data is None:
            return None
        if self._directory is None:
            self._directory = TemporaryDirectory(prefix="agentd-harness-")
            weakref.finalize(self, self._directory.cleanup)
        self._written += 1
        file = Path(self._directory.name) / str(self._written)
        file.write_bytes(data)
        return file

    def write(self, path: str, data: bytes, mode: int = 0o644, *, secret: bool = False) -> None:  # noqa: ARG002 (it leaves no copies)
        """See `Files.write`."""
        self._admit(path)
        check_mode(path, mode)
        self._layout.admit(path)
        self.staged[path] = (bytes(data), mode)

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """See `Files.write_file`."""
        self.write(path, source.read_bytes(), mode)

    def remove(self, path: str) -> None:
        """See `Files.remove`."""
        self._admit(path)
        self._layout.discard(path)
        self.staged.pop(path, None)

    def paths(self, prefix: str = "") -> list[str]:
        """See `Files.paths`."""
        return sorted(path for path in self.staged if path.startswith(prefix))

    def reference(self, path: str) -> str:
        """See `Files.reference`."""
        return f"{_PREFIX}/{path}"

    def _admit(self, path: str) -> None:
        check_path(path)
        if path in self._foreign:
            raise PermanentError(f"{path}: belongs to another handler")
