"""The `sources:` section: what a reference may name, and how much and how long it may take. Values only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, field_validator

from agentd.options import Duration, Options
from agentd.reference import parse_location

_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_SIZE: Final = re.compile(r"([0-9]{1,12}) ?([kmg]?)(?:i?b)?")


def parse_size(value: object) -> int:
    """Turn 1048576, "512k", "100M" or "2GiB" into bytes; the units are powers of 1,024.

    Raises:
        ValueError: not a size, or negative.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.lower()) if isinstance(value, str) and value.isascii() else None
    if not found:
        raise ValueError("a size such as 512k, 100M or 2G is needed")
    return int(found[1]) * _UNITS[found[2]]


Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes, written as "512k", "100M" or "2G"."""


class ObjectStoreOptions(Options):
    """How a bucket is asked: what all object stores have in common."""

    endpoint: str | None = Field(
        None, pattern="^https?://[^/?#@]+/?$", description="URL of the store; the provider's own by default."
    )
    credentials_file: Path | None = Field(
        None, description="File of credentials, as the provider has them; by default its library finds some."
    )
    anonymous: bool = Field(default=False, description="Ask without credentials.")


class S3Options(ObjectStoreOptions):
    """S3, or what speaks like it."""

    region: str | None = Field(None, description="Region of the buckets; by default what the library finds.")


class GCSOptions(ObjectStoreOptions):
    """Google Cloud Storage."""


class SourceOptions(Options):
    """Payloads that a change names by reference."""

    allow: tuple[str, ...] = Field(
        (),
        description="Prefixes that a reference may name, matched by whole path segments; nothing by default. "
        "Whoever may fire an event chooses the address, so this is the fence.",
    )
    max_size: Size = Field(256 * 2**20, ge=1, description="Largest payload as it is served, in bytes.")
    max_expanded: Size = Field(2**30, ge=1, description="Largest payload once it is unpacked, in bytes.")
    connect_timeout: Duration = Field(10.0, gt=0, description="Time limit of connecting.")
    read_timeout: Duration = Field(30.0, gt=0, description="Longest silence in the middle of an answer.")
    total_timeout: Duration = Field(900.0, gt=0, description="Time limit of one payload, retries included.")
    attempts: int = Field(
        6, ge=1, le=100, description="How often a transfer that breaks off is taken up again."
    )
    redirects: int = Field(5, ge=0, le=20, description="How many redirects in a row are followed.")
    ca_file: Path | None = Field(
        None, description="CA certificates (PEM) for https; the system's own by default."
    )
    s3: S3Options = Field(S3Options(), description="How s3:// is asked.")
    gs: GCSOptions = Field(GCSOptions(), description="How gs:// is asked.")

    @field_validator("allow")
    @classmethod
    def _prefixes(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for text in allow:
            if parse_location(text).query or "?" in text:
                raise ValueError("a prefix has no query")
        return allow
