"""What a generation says of itself, and reading one.

It owns the format of manifest.json and the meaning of "complete". It must not write.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agentd.apply.paths import MANIFEST
from agentd.errors import TreeError

_OWN: Final = frozenset({"generation", "created", "parent", "changes", "files"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a generation.

    Attributes:
        owner: the configured handler, or None for agentd's own (stamped) files.
        sha256: of the content, in hex.
        size: in bytes.
        mode: permission bits.
    """

    owner: str | None
    sha256: str
    size: int
    mode: int

    @classmethod
    def of(cls, owner: str | None, data: bytes, mode: int) -> Entry:
        """Describe content held in memory."""
        return cls(owner, hashlib.sha256(data).hexdigest(), len(data), mode)

    def same_file(self, other: Entry | None) -> bool:
        """Whether content and mode are equal; who owns it does not matter to nginx."""
        return other is not None and (self.sha256, self.size, self.mode) == (
            other.sha256,
            other.size,
            other.mode,
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
    """

    generation: int
    created: float
    parent: int
    changes: tuple[str, ...]
    files: Mapping[str, Entry]
    extra: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """What manifest.json holds, `extra` beside the manifest's own fields.

        Raises:
            ValueError: `extra` uses a name that is the manifest's own.
        """
        if taken := _OWN & self.extra.keys():
            raise ValueError(f"the manifest itself says {sorted(taken)}")
        return {
            "generation": self.generation,
            "created": self.created,
            "parent": self.parent,
            "changes": list(self.changes),
            **self.extra,
            "files": {path: asdict(entry) for path, entry in sorted(self.files.items())},
        }

    def dump(self) -> bytes:
        """The bytes of manifest.json.

        Raises:
            TypeError, ValueError: `extra` is not JSON, or uses a name that is the manifest's own.
        """
        return json.dumps(self.body(), indent=1, allow_nan=False).encode()

    @classmethod
    def load(cls, raw: bytes) -> Manifest:
        """Read the bytes of manifest.json.

        Raises:
            ValueError: it is not one.
        """
        try:
            body = json.loads(raw)
            files = {str(path): Entry(**entry) for path, entry in body.pop("files").items()}
            number, created, parent = (body.pop(name) for name in ("generation", "created", "parent"))
            changes = tuple(body.pop("changes"))
            return cls(int(number), float(created), int(parent), changes, MappingProxyType(files), body)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error}") from error


@dataclass(frozen=True, slots=True)
class View:
    """One generation, opened for reading.

    Attributes:
        directory: where it lies; it may be pruned while it is open.
    """

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> View:
        """Open a generation.

        Raises:
            OSError: there is none, or it cannot be read.
            ValueError: its manifest is damaged.
        """
        return cls(directory, _loaded((directory / MANIFEST).read_bytes()))

    @classmethod
    def nothing(cls, directory: Path) -> View:
        """What is there before the first generation."""
        return cls(directory, Manifest(0, 0.0, 0, (), MappingProxyType({}), MappingProxyType({})))

    @property
    def number(self) -> int:
        """The generation's number, 0 before the first."""
        return self.manifest.generation

    @property
    def files(self) -> Mapping[str, Entry]:
        """Its files by path, agentd's own included."""
        return self.manifest.files

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None if the generation has none of this path.

        Raises:
            TreeError: it should be there and cannot be read.
        """
        if path not in self.files:
            return None
        try:
            return (self.directory / path).read_bytes()
        except OSError as error:
            raise TreeError(f"generation {self.number} is damaged: {path}: {error.strerror}") from error

    def complete(self) -> bool:
        """Whether every file is there, of the right size. Cheap: one lstat a file."""
        return all(_is_file(self.directory / path, entry) for path, entry in self.files.items())

    def genuine(self) -> bool:
        """Whether every file has the very content that the manifest says. Reads them all."""
        return self.complete() and all(
            hashlib.sha256((self.directory / path).read_bytes()).hexdigest() == entry.sha256
            for path, entry in self.files.items()
        )


@lru_cache(maxsize=4)
def _loaded(raw: bytes) -> Manifest:
    """Parsed once for the same bytes: the current manifest is read for every attempt."""
    return Manifest.load(raw)


def _is_file(path: Path, entry: Entry) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.size
