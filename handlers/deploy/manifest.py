"""A manifest in Stretcher's format, read and checked.

Fields that Stretcher does not know are ignored, as it ignores them, but reported. What the configuration
allows is not decided here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from agentd.errors import PermanentError
from handlers.deploy.document import Fields, Pairs, read_document
from handlers.deploy.members import RefusedArchiveError, parts
from handlers.deploy.template import fill_in

LARGEST: Final = 256 * 1024
"""Bytes that a manifest may have."""

_DIGESTS: Final = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_WEAK: Final = frozenset({"md5", "sha1"})
_LAST_MODE: Final = 0o777
_MODE: Final = 0o755
_GIVE_MODE: Final = "give permissions such as 0755"
_MOST_NAMED: Final = 20
_STRUCTS: Final = frozenset({"commands"})


def _empty(value: object) -> object:
    return () if value == "" else value


def _mode(value: object) -> object:
    """An octal number with a leading 0 or 0o, else a decimal one, as in YAML 1.1 and Go."""
    if not isinstance(value, str):
        return value
    if not value:
        return _MODE
    octal = re.fullmatch("0o?([0-7]{1,20})", value)
    if octal is None and not re.fullmatch("[0-9]{1,20}", value):
        raise ValueError(_GIVE_MODE)
    return int(octal[1], 8) if octal else int(value)


def _printable(line: str) -> str:
    if "\0" in line:
        raise ValueError("a NUL character cannot be passed to a program")
    return line


Lines = Annotated[tuple[str, ...], BeforeValidator(_empty)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Commands(_Part):
    """Shell lines, run in order: before the archive is unpacked, after `dest` is changed, and at the end."""

    pre: Lines = ()
    post: Lines = ()
    success: Lines = ()
    failure: Lines = ()

    @field_validator("pre", "post", "success", "failure")
    @classmethod
    def _runnable(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_printable, lines))

    @property
    def every(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.pre, *self.post, *self.success, *self.failure)


class DeployManifest(_Part):
    """What is to be deployed, and how. Without `src` there are only commands to run."""

    src: str = ""
    checksum: str = ""
    dest: str = ""
    dest_mode: Annotated[int, BeforeValidator(_mode)] = _MODE
    commands: Commands = Commands()
    excludes: Lines = ()
    exclude_from: str = ""
    sync_strategy: Literal["", "rsync", "mv"] = ""

    @field_validator("dest_mode")
    @classmethod
    def _permissions(cls, mode: int) -> int:
        if not 0 <= mode <= _LAST_MODE:
            raise ValueError(_GIVE_MODE)
        return mode

    @field_validator("excludes")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_printable, patterns))

    @field_validator("exclude_from")
    @classmethod
    def _inside(cls, path: str) -> str:
        try:
            _ = parts(path) if path else ()
        except RefusedArchiveError as error:
            raise ValueError(f"it must name a file in the archive, but {error}") from error
        return path

    @model_validator(mode="after")
    def _bounded(self) -> DeployManifest:
        lines = (*self.commands.every, *self.excludes)
        if sum(map(len, lines)) > LARGEST:
            raise ValueError(f"its lists, aliases included, have more than {LARGEST} characters")
        return self

    @model_validator(mode="after")
    def _complete(self) -> DeployManifest:
        if not self.src:
            return self
        digits = self.checksum
        if len(digits) not in _DIGESTS or not re.fullmatch("[0-9a-fA-F]+", digits):
            raise ValueError("checksum: give the md5, sha1, sha256 or sha512 of `src`, in hexadecimal")
        path = PurePosixPath(self.dest)
        if not path.is_absolute() or ".." in path.parts or not path.name or "\0" in self.dest:
            raise ValueError("dest: give an absolute path without `..`")
        return self

    @property
    def digest(self) -> str:
        """The checksum as `fetch` takes it: "sha1:HEX"."""
        return f"{_DIGESTS[len(self.checksum)]}:{self.checksum.lower()}"

    @property
    def weak(self) -> str:
        """The name of a checksum that can be forged, "" for a good one."""
        name = _DIGESTS[len(self.checksum)] if self.src else ""
        return name if name in _WEAK else ""

    @property
    def target(self) -> str:
        """`dest`, normalised and without a trailing slash."""
        return str(PurePosixPath("/", self.dest.lstrip("/"))) if self.src else ""


@dataclass(frozen=True, slots=True)
class LoadedManifest:
    """A manifest, and the text it was read from.

    Attributes:
        digest: SHA-256 of the text with the environment filled in, in hexadecimal.
        source: the same of what was fetched, which is not a node's own.
        unknown: the fields that Stretcher does not know.
        twice: the fields that are given twice, of which the last one counts.
    """

    manifest: DeployManifest
    digest: str
    source: str = ""
    unknown: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()


class RefusedManifestError(PermanentError):
    """A manifest cannot be used; the message says why and quotes no value.

    Attributes:
        failure: its `failure` commands, as far as they could be read.
    """

    def __init__(self, message: str, failure: tuple[str, ...] = ()) -> None:
        super().__init__(f"the manifest cannot be used: {message}")
        self.failure = failure


def read_manifest(data: bytes, environment: Mapping[str, str]) -> LoadedManifest:
    """Read a manifest; an empty one asks for nothing, as with Stretcher.

    Raises:
        RefusedManifestError: it cannot be used.
    """
    fields = Fields(_STRUCTS)
    given: dict[str, Any] = {}
    if len(data) > LARGEST:
        raise RefusedManifestError(f"it has more than {LARGEST} bytes")
    try:
        text = fill_in(data.decode(), environment, LARGEST)
        digest = hashlib.sha256(text.encode()).hexdigest()
        found, more = read_document(text)
        pairs = Pairs(1) if found == "" else found
        if not isinstance(pairs, Pairs):
            raise RefusedManifestError("it must be a map")
        fields.fill(given, pairs)
    except UnicodeError as error:
        raise RefusedManifestError("it, or a variable that it names, is not text in UTF-8") from error
    except ValueError as error:
        raise RefusedManifestError(str(error), _failure(given.get("commands"))) from error
    try:
        manifest = DeployManifest.model_validate(given)
    except ValidationError as error:
        raise RefusedManifestError(_problems(error), _failure(given.get("commands"))) from error
    unknown = [*_named(given.keys() - DeployManifest.model_fields.keys()), *(["a second document"] * more)]
    source = hashlib.sha256(data).hexdigest()
    return LoadedManifest(manifest, digest, source, tuple(unknown), tuple(_named(fields.twice)))


def _named(names: Iterable[str]) -> list[str]:
    return sorted(name[:100] for name in names)[:_MOST_NAMED]


def _failure(commands: object) -> tuple[str, ...]:
    """The `failure` commands of a manifest of which something else is wrong."""
    try:
        return Commands.model_validate(
            {"failure": commands.get("failure", ())} if isinstance(commands, dict) else {}
        ).failure
    except ValidationError:
        return ()


def _problems(error: ValidationError) -> str:
    details: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
    return "; ".join(
        f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}".removeprefix(
            ": "
        )
        for detail in details[:5]
    )
