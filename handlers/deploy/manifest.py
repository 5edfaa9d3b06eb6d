"""A manifest in Stretcher's format, read and checked.

Every scalar of the YAML is taken as the text that it is: a checksum of digits only is no number. Fields that
Stretcher does not know are ignored, as it does, but told. What the configuration allows is not decided here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from handlers.deploy.members import RefusedArchiveError, parts
from handlers.deploy.template import fill_in

LARGEST: Final = 256 * 1024
"""Bytes of a manifest."""

_NULLS: Final = ("", "~", "null", "Null", "NULL")
_DIGESTS: Final = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_LAST_MODE: Final = 0o777
_UNREADABLE: Final = (yaml.YAMLError, RecursionError, UnicodeDecodeError)


def _empty(value: object) -> object:
    return () if isinstance(value, str) and value in _NULLS else value


def _mode(value: object) -> object:
    """An octal number with a leading 0 or 0o, else a decimal one, as in YAML 1.1 and Go."""
    if not isinstance(value, str):
        return value
    octal = re.fullmatch("0o?([0-7]+)", value)
    return int(octal[1], 8) if octal else value


def _printable(line: str) -> str:
    if "\0" in line:
        raise ValueError("a NUL character cannot be given to a program")
    return line


Lines = Annotated[tuple[Annotated[str, BeforeValidator(lambda line: line)], ...], BeforeValidator(_empty)]


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


class Manifest(_Part):
    """What is to be deployed, and how. Without `src` there are only commands to run."""

    src: str = ""
    checksum: str = ""
    dest: str = ""
    dest_mode: Annotated[int, BeforeValidator(_mode)] = 0o755
    commands: Annotated[Commands, BeforeValidator(lambda value: _empty(value) or {})] = Commands()
    excludes: Lines = ()
    exclude_from: str = ""
    sync_strategy: Literal["", "rsync", "mv"] = ""

    @field_validator("dest_mode")
    @classmethod
    def _permissions(cls, mode: int) -> int:
        if not 0 <= mode <= _LAST_MODE:
            raise ValueError("permissions such as 0755 are needed")
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
            raise ValueError(f"it names a file of the archive, but {error}") from error
        return path

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if not self.src:
            return self
        digits = self.checksum
        if len(digits) not in _DIGESTS or not re.fullmatch("[0-9a-fA-F]+", digits):
            raise ValueError("checksum: the md5, sha1, sha256 or sha512 of `src` is needed, in hexadecimal")
        path = PurePosixPath(self.dest)
        if not path.is_absolute() or ".." in path.parts or not path.name or "\0" in self.dest:
            raise ValueError("dest: an absolute path without `..` is needed")
        return self

    @property
    def digest(self) -> str:
        """The checksum as `fetch` takes it: "sha1:HEX"."""
        return f"{_DIGESTS[len(self.checksum)]}:{self.checksum.lower()}"

    @property
    def target(self) -> str:
        """`dest` in its one spelling, without a slash at the end."""
        return str(PurePosixPath("/", self.dest.lstrip("/"))) if self.src else ""


@dataclass(frozen=True, slots=True)
class Read:
    """A manifest as it was read.

    Attributes:
        digest: SHA-256 of its text, once the environment is filled in; hexadecimal.
        unknown: the fields that nobody knows.
    """

    manifest: Manifest
    digest: str
    unknown: tuple[str, ...] = ()


def read_manifest(data: bytes, environment: Mapping[str, str]) -> Read:
    """Read a manifest.

    Raises:
        ValueError: it cannot be used; the text says why and quotes no value.
    """
    try:
        text = fill_in(data.decode(), environment)
        found = yaml.load(text, yaml.BaseLoader)  # noqa: S506 (it makes strings, lists and maps, and nothing else)
    except _UNREADABLE as error:
        raise ValueError(f"it is no YAML{_where(error)}") from error
    if not isinstance(found, dict) or "<<" in found:
        raise ValueError("a map is needed, without merge keys (<<)")
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise ValueError(_problems(error)) from error
    unknown = sorted(str(name)[:100] for name in found.keys() - Manifest.model_fields.keys())
    return Read(manifest, hashlib.sha256(text.encode()).hexdigest(), tuple(unknown))


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark else ""


def _problems(error: ValidationError) -> str:
    details: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
    return "; ".join(
        f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}".removeprefix(
            ": "
        )
        for detail in details[:5]
    )
