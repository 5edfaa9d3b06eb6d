"""The `sources:` section: what a reference may name, and how much and how long it may take. Values only."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from agentd.options import Options, Size
from agentd.section import Duration
from agentd.sources.reference import parse_location


class ObjectStoreOptions(Options):
    """What all object stores have in common."""

    endpoint: str | None = Field(
        None, pattern="^https?://[^/?#@]+/?$", description="URL of the store. Unset: the provider's own."
    )
    credentials_file: Path | None = Field(
        None,
        description="File of credentials in the provider's format. Unset: wherever its library looks for"
        " them.",
    )
    anonymous: bool = Field(default=False, description="Send requests without credentials.")


class S3Options(ObjectStoreOptions):
    """S3, or a store with the same API; needs what `config/requirements/s3.txt` lists."""

    region: str | None = Field(
        None, description="Region of the buckets. Unset: wherever its library looks for it."
    )


class GCSOptions(ObjectStoreOptions):
    """Google Cloud Storage; needs what `config/requirements/gcs.txt` lists."""


class SourceOptions(Options):
    """Payloads by reference (kv:, file:, http(s):, s3:, gs:): what may be fetched, and with which limits."""

    allow: tuple[str, ...] = Field(
        (),
        description="Allowlist of prefixes, matched by whole path segments, such as"
        " https://feeds.example/v1. Nothing is allowed by default, because whoever may fire an event chooses"
        " the address.",
    )
    max_size: Size = Field(256 * 2**20, ge=1, description="Largest payload as it is transferred.")
    max_expanded: Size = Field(
        2**30, ge=1, description="Largest payload after decompression (gzip, Zstandard), which stops there."
    )
    connect_timeout: Duration = Field(10.0, gt=0, description="Time limit for connecting.")
    read_timeout: Duration = Field(30.0, gt=0, description="Longest pause within a response.")
    total_timeout: Duration = Field(
        900.0,
        gt=0,
        description="Time limit of one payload, including retries. What a handler fetches within a call is"
        " limited by its own timeout as well; feeds and `load` are not.",
    )
    parallel: int = Field(
        16,
        ge=1,
        le=64,
        description="How many downloads of feeds, and how many of `load` lines, a handler may have under way."
        " More wait their turn. One that takes longer than 10 s keeps no other waiting: then up to four times"
        " as many `load` lines may be under way, and all feeds.",
    )
    attempts: int = Field(
        6,
        ge=1,
        le=100,
        description="How often an interrupted transfer is attempted; it resumes where it broke off.",
    )
    redirects: int = Field(
        5,
        ge=0,
        le=20,
        description="Number of redirects to follow; the target of each must be allowed as well.",
    )
    ca_file: Path | None = Field(None, description="CA certificates (PEM) for https. Unset: the system's.")
    s3: S3Options = Field(S3Options(), description="Access to s3://.")
    gs: GCSOptions = Field(GCSOptions(), description="Access to gs://.")

    @field_validator("allow")
    @classmethod
    def _prefixes(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for text in allow:
            if parse_location(text).query or "?" in text:
                raise ValueError("a prefix has no query")
        return allow
