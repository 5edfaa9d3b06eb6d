"""Generations on disk: their names and numbers, their manifests, and how to read them.

It owns the format of manifest.json, and which generations are pruned. It never writes
one (`builder` does), and learns which one is current from its caller.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agentd.errors import FormatError, TreeError
from agentd.tree import disk
from agentd.tree.paths import MANIFEST

FORMAT: Final = 1
"""Of manifest.json, and so of the whole tree. A manifest that names none is from before there were two."""

_OWN: Final = frozenset(
    {"format", "generation", "created", "parent", "changes", "secrets", "wiped", "files", "digest"}
)
_CACHED: Final = 4


def directory_name(number: int) -> str:
    """The directory of a generation: "000042"."""
    return f"{number:06d}"


def current_number(link: str | Path) -> int:
    """The number of the generation that `current` of a tree leads to, 0 if there is none."""
    try:
        return number_of(os.readlink(link).rpartition("/")[2])  # noqa: PTH115 (looked at often)
    except OSError:
        return 0


def number_of(directory: str) -> int:
    """The number of a generation, by its directory's name; 0 if it is no such name."""
    wellformed = directory.isascii() and directory.isdigit() and len(directory) >= len(directory_name(0))
    return int(directory) if wellformed else 0


def _digest_of(text: bytes) -> bytes:
    """The end of a manifest, instead of its last brace: by it damage is noticed. Older ones have none."""
    return b', "digest": "%s"}' % hashlib.sha256(text).hexdigest().encode()


_DIGEST_LENGTH: Final = len(_digest_of(b""))


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a generation.

    Attributes:
        owner: the configured handler, or None for agentd's own (stamped) files.
        sha256: of the content, in hex.
        size: in bytes.
        mode: permission bits.
        secret: whether no other generation may keep its content once the current one has it no more.
    """

    owner: str | None
    sha256: str
    size: int
    mode: int
    secret: bool = False

    @classmethod
    def of(cls, owner: str | None, data: bytes, mode: int, *, secret: bool = False) -> FileEntry:
        """Describe content held in memory."""
        return cls(owner, hashlib.sha256(data).hexdigest(), len(data), mode, secret)

    def to_json(self) -> dict[str, str | int | None]:
        """As it is in manifest.json, which lists what is secret apart."""
        return {"owner": self.owner, "sha256": self.sha256, "size": self.size, "mode": self.mode}

    def same_file(self, other: FileEntry | None) -> bool:
        """Whether content, mode and secrecy are equal; who owns it does not matter to nginx."""
        return (
            other is not None
            and self.sha256 == other.sha256
            and (self.size, self.mode, self.secret) == (other.size, other.mode, other.secret)
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        generation: its number.
        created: unix time, in seconds.
        parent: the generation that was current before it, or 0.
        changes: the paths that differ from the parent's.
        files: all but manifest.json itself, by path.
        extra: what the committer wants to be remembered; JSON.
        wiped: the paths of secrets that it had, and of what was replaced with them.
        marked: whether it says what is secret; earlier versions of agentd did not.
    """

    generation: int
    created: float
    parent: int
    changes: tuple[str, ...]
    files: Mapping[str, FileEntry]
    extra: Mapping[str, Any]
    wiped: tuple[str, ...] = ()
    marked: bool = True

    def dump(self) -> bytes:
        """The bytes of manifest.json, with `extra` beside the manifest's own fields.

        Raises:
            TypeError, ValueError: `extra` is not JSON, or uses a name that is the manifest's own.
        """
        if taken := _OWN & self.extra.keys():
            raise ValueError(f"{sorted(taken)} belong to the manifest itself")
        body = {
            "format": FORMAT,
            "generation": self.generation,
            "created": self.created,
            "parent": self.parent,
            "changes": list(self.changes),
            **self.extra,
            "secrets": sorted(path for path, entry in self.files.items() if entry.secret),
            "wiped": list(self.wiped),
            "files": {path: entry.to_json() for path, entry in sorted(self.files.items())},
        }
        text = json.dumps(body, allow_nan=False).encode()  # an indent would cost ten times as much
        return text[:-1] + _digest_of(text)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.json.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
            FormatError: another agentd wrote it.
        """
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for
            raise ValueError(f"{path.name} is not a file")
        raw = path.read_bytes()
        try:
            body = json.loads(raw)
        except RecursionError as error:
            raise ValueError("not a manifest: nested too deeply") from error
        if not isinstance(body, dict):
            raise ValueError("not a manifest")  # noqa: TRY004 (it is the content that is wrong)
        found = body.pop("format", FORMAT)
        if found != FORMAT or type(found) is not int:
            raise FormatError(path, found, FORMAT)
        if body.pop("digest", None):
            text = raw[:-_DIGEST_LENGTH] + b"}"
            if _digest_of(text) != raw[-_DIGEST_LENGTH:]:
                raise ValueError("its content was changed")
        try:
            marked, secrets = "secrets" in body, frozenset(body.pop("secrets", ()))
            files = {
                str(path): FileEntry(**entry, secret=path in secrets)
                for path, entry in body.pop("files").items()
            }
            number, created, parent = (body.pop(name) for name in ("generation", "created", "parent"))
            changes, wiped = tuple(body.pop("changes")), tuple(body.pop("wiped", ()))
            read = MappingProxyType(files)
            return cls(int(number), float(created), int(parent), changes, read, body, wiped, marked)
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"not a manifest: {error}") from error


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation, opened for reading; number 0 is what is there before the first.

    Attributes:
        directory: its directory; it may be pruned while it is open.
    """

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path, number: int | None = None) -> Generation:
        """Open a generation.

        Args:
            directory: its directory.
            number: what it must be, if that is known.

        Raises:
            OSError: there is none, or it cannot be read.
            ValueError: its manifest is damaged, or is another's.
            FormatError: another agentd wrote it.
        """
        found = cls(directory, Manifest.load(directory / MANIFEST))
        if number not in (None, found.number):
            raise ValueError(f"{directory / MANIFEST} is that of generation {found.number}")
        return found

    @property
    def number(self) -> int:
        """The generation's number, 0 before the first."""
        return self.manifest.generation

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Its files by path, agentd's own included."""
        return self.manifest.files

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None if the generation has none of this path.

        Raises:
            TreeError: it should exist, but cannot be read.
        """
        if path not in self.files:
            return None
        try:
            return (self.directory / path).read_bytes()
        except OSError as error:
            raise TreeError(f"generation {self.number} is damaged: {path}: {error.strerror}") from error


class Generations:
    """The generations in `directory`, which need not exist. Those opened last stay parsed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._opened: dict[int, tuple[tuple[int, ...], Generation]] = {}

    def numbers(self) -> list[int]:
        """The numbers of all generations, ascending; 0 is not one."""
        try:
            names = [entry.name for entry in self.directory.iterdir()]
        except OSError:
            return []
        return sorted(number for name in names if (number := number_of(name)))

    def open(self, number: int) -> Generation:
        """Open a generation for reading.

        Raises:
            TreeError: there is no such generation, or its manifest is damaged.
            FormatError: another agentd wrote it.
        """
        directory = self.directory / directory_name(number)
        try:
            found = (directory / MANIFEST).stat()
            # A generation never changes: unless somebody damaged it, its manifest is still the same file.
            identity = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known, generation = self._opened.get(number, (None, None))
            if generation is None or known != identity:
                generation = Generation.open(directory, number)
                opened = {
                    kept: self._opened[kept] for kept in list(self._opened)[-_CACHED:] if kept != number
                }
                self._opened = opened | {number: (identity, generation)}  # at once: other threads look, too
        except FileNotFoundError as error:
            raise TreeError(f"there is no generation {number}; see `agentd generations`") from error
        except PermissionError as error:  # which says nothing about the generation
            raise TreeError(f"{error.filename}: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise TreeError(f"{directory} cannot be read: {error}; choose another generation") from error
        return generation

    def find(self, number: int) -> Generation:
        """Open a generation, or an empty one if there is no such readable generation."""
        with suppress(TreeError):
            return self.open(number)
        return self.nothing()

    def nothing(self) -> Generation:
        """What is there before the first generation."""
        empty: Mapping[str, Any] = MappingProxyType({})
        return Generation(self.directory / directory_name(0), Manifest(0, 0.0, 0, (), empty, empty))

    def prune(self, keep: int, hold: Collection[int]) -> None:
        """Remove all but the newest `keep` and those held; what cannot be removed is logged.

        A generation that another agentd wrote stays.
        """
        for number in self.numbers()[:-keep]:
            if number not in hold:
                directory = self.directory / directory_name(number)
                try:
                    Generation.open(directory)
                except FormatError as error:
                    _warn(number, error)
                    continue
                except (OSError, ValueError):
                    pass
                disk.discard(directory)


def _warn(number: int, error: Exception) -> None:
    import structlog  # noqa: PLC0415 (slow, and commands that only read generations do without)

    structlog.get_logger(__name__).warning("tree.generation_unreadable", generation=number, error=str(error))
