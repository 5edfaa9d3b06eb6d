"""nginx's configuration files as a list of directives, each with its file, line and enclosing blocks.

Reads what is written, as `nginx -T` would print it, without its cost; what nginx makes of it, only nginx can
say. Includes are followed as nginx does, also where one file is included in several places, but not inside
`geo`, `map` and the like: that is data, maybe a million lines of it. Whatever cannot be read is a problem,
never an exception.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from agentd.nginx.syntax import ConfigSyntaxError, Statement, parse

_LARGEST: Final = 4 * 1024 * 1024  # bytes of one file
_SEARCHED: Final = 65536  # a larger file is searched before it is read
_LONGEST_WORD: Final = 64
_MOST_FILES: Final = 10_000
_DATA: Final = frozenset({"geo", "map", "split_clients", "types"})


class Directive(NamedTuple):
    """One directive; `blocks` are those around it, the outermost first."""

    name: str
    arguments: tuple[str, ...]
    file: Path
    line: int
    blocks: tuple[Directive, ...]

    @property
    def place(self) -> str:
        """Where it is written, as FILE:LINE."""
        return f"{self.file}:{self.line}"

    @property
    def context(self) -> str:
        """The block that it is in, in nginx's words: "main", "http", "server", ..."""
        return self.blocks[-1].name if self.blocks else "main"

    @property
    def server(self) -> Directive | None:
        """The `server` block around it, if there is one."""
        return next((block for block in reversed(self.blocks) if block.name == "server"), None)


class NginxFiles:
    """Everything that a main configuration file includes.

    Args:
        conf: the main file.
        names: only these directives are read, and `include`; None: all of them.

    Attributes:
        directives: in the order in which nginx meets them.
        directory: where relative names begin.
        problems: what could not be read, as "FILE:LINE: why" or "FILE: why".
    """

    def __init__(self, conf: Path, names: Collection[str] | None = None) -> None:
        self.problems: list[str] = []
        self._names = None if names is None else {*names, "include"}
        self.directory = conf.parent
        self._parsed: dict[Path, list[Statement]] = {}
        self._states: dict[Path, FileState] = {}
        self._matches: dict[str, list[str]] = {}
        self._open: list[Path] = []
        self._files = 0
        self.directives: list[Directive] = []
        try:
            self.directives.extend(self._file(conf, ()))
        except RecursionError:
            self.problems.append(f"{conf}: nested too deeply; the rest was not read")
        self._parsed.clear()

    def named(self, *names: str) -> list[Directive]:
        """The directives of these names."""
        return [directive for directive in self.directives if directive.name in names]

    def included_by(self, include: Directive) -> list[Path]:
        """The files that an `include` names: those that exist, and the one it names without a wildcard."""
        if not include.arguments:
            return []
        pattern = str(self.directory / include.arguments[0])
        if not glob.has_magic(pattern):
            return [Path(pattern)]
        if pattern not in self._matches:
            self._matches[pattern] = _matches(pattern)
        return [Path(name) for name in self._matches[pattern]]

    def snapshot(self) -> Snapshot:
        """What was read, to find out later whether it is still the same."""
        return Snapshot(self._states, self._matches)

    def _file(self, path: Path, blocks: tuple[Directive, ...]) -> Iterator[Directive]:
        self._files += 1
        if path in self._open:
            self.problems.append(f"{path}: includes itself")
        elif self._files == _MOST_FILES:
            self.problems.append(f"{path}: more than {_MOST_FILES} included files; the rest was not read")
        elif self._files < _MOST_FILES:
            self._open.append(path)
            yield from self._placed(self._parse(path), path, blocks)
            self._open.pop()

    def _placed(
        self, statements: Iterable[Statement], path: Path, blocks: tuple[Directive, ...]
    ) -> Iterator[Directive]:
        within: list[tuple[Directive, ...]] = []  # at each statement's place, the blocks that its own are in
        for name, arguments, line, block, inside in statements:
            around = blocks if inside < 0 else within[inside]
            directive = Directive(name, arguments, path, line, around)
            within.append((*around, directive) if block else around)
            yield directive
            if name == "include" and arguments and directive.context not in _DATA:
                for file in self.included_by(directive):
                    yield from self._file(file, around)

    def _parse(self, path: Path) -> list[Statement]:
        if path not in self._parsed:
            self._states[path] = _state(path)
            self._parsed[path] = self._statements(path)
        return self._parsed[path]

    def _statements(self, path: Path) -> list[Statement]:
        try:
            size = path.stat().st_size
            if self._names is not None and size > _SEARCHED and not _mentions(path, self._names):
                return []  # a list of addresses, maybe a million
            if size > _LARGEST:
                self.problems.append(f"{path}: larger than {_LARGEST} bytes, not read")
                return []
            return parse(path.read_text(errors="replace"), self._names)
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")
            return []
        except ConfigSyntaxError as error:
            self.problems.append(f"{path}:{error.line}: {error}")
            return error.statements


FileState = tuple[int, ...]
"""Device, inode, size and time of change in nanoseconds; empty without such a file."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files that were read, and what the wildcards matched."""

    states: dict[Path, FileState]
    matches: dict[str, list[str]]

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        return all(_matches(pattern) == names for pattern, names in self.matches.items()) and all(
            _state(path) == state for path, state in self.states.items()
        )


def _mentions(path: Path, names: Collection[str]) -> bool:
    """Whether any of these words is in the file."""
    # Not mapped into memory: if an editor then cuts the file short, that ends the daemon.
    word = re.compile(rb"\b(?:%s)\b" % "|".join(map(re.escape, names)).encode())
    end = b""
    with path.open("rb") as file:
        while chunk := file.read(_SEARCHED):
            if word.search(end + chunk):
                return True
            end = chunk[-_LONGEST_WORD:]
    return False


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))  # noqa: PTH207 (Path.glob: relative patterns only)


def _state(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
