"""From a reference to a file on disk, for every scheme: allowlist, transfer, digest, unpack, in this order.

It owns what one configuration may fetch (`Sources`) and one call's use of it (`Fetcher`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentd.deadline import Deadline
from agentd.errors import ConsulError, ConsulRefused, PermanentError, TemporaryError
from agentd.handler import Fetch, Fetched, Known, Log
from agentd.sources import local_file
from agentd.sources.allowlist import Allowlist
from agentd.sources.download import Download, DownloadDirectory
from agentd.sources.object_store import signer
from agentd.sources.options import SourceOptions
from agentd.sources.reference import Location, Reference, parse_digest, parse_reference
from agentd.sources.request import Request, SignedRequest, WebRequest
from agentd.sources.transfer import Transfer
from agentd.sources.unpack import announced, unpack
from agentd.tree import disk

ReadKey = Callable[[str], bytes | None]
"""Reads a key of Consul's KV store, None if there is none; raises ConsulUnavailable or ConsulRefused."""


def _no_keys(path: str) -> bytes | None:
    raise PermanentError(f"kv:{path}: there is no Consul here to read it from")


@dataclass(frozen=True)
class Sources:
    """What one configuration may fetch, and from where.

    Args:
        options: the `sources:` section.
        directory: where each batch gets its private directory.
        read_key: reads kv: references.
    """

    options: SourceOptions
    directory: Path
    read_key: ReadKey = _no_keys
    allowlist: Allowlist = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowlist", Allowlist.of(self.options.allow))

    def sweep(self) -> None:
        """Remove what a crash left behind; what cannot be removed is logged."""
        if self.directory.is_dir():
            with suppress(OSError):
                disk.sweep(self.directory)

    def new_directory(self) -> DownloadDirectory:
        """A private directory for one batch."""
        return DownloadDirectory(self.directory)

    def request(self, location: Location) -> Request:
        """How an http(s), s3 or gs location is asked for."""
        if location.scheme == "s3":
            return SignedRequest(str(location), signer(location, self.options.s3))
        if location.scheme == "gs":
            return SignedRequest(str(location), signer(location, self.options.gs))
        return WebRequest(location, self.allowlist)


@dataclass(frozen=True)
class Fetcher(Fetch):
    """`Context.fetch` of one call.

    Args:
        directory: where the files go.
        end: of the call, on the monotonic clock.
        log: gets a line now and then while a transfer is long.
        stop: ends a transfer once set.
    """

    sources: Sources
    directory: DownloadDirectory
    end: float
    log: Log
    stop: threading.Event | None = None

    def permitted(self, reference: str) -> None:
        """See `agentd.handler.Fetch`."""
        self.sources.allowlist.check(read_reference(reference).location)

    def if_changed(
        self,
        reference: str,
        known: Known,
        *,
        max_size: int | None = None,
        expand: bool = True,
        digest: str | None = None,
        rate: float | None = None,
    ) -> Fetched | None:
        """See `agentd.handler.Fetch`."""
        found, options = read_reference(reference, digest), self.sources.options
        prefixes = self.sources.allowlist.check(found.location)
        seconds = min(options.total_timeout, self.end - time.monotonic())
        deadline = Deadline(str(found.location), seconds, log=self.log, stop=self.stop, rate=rate)
        deadline.left()
        limit = options.max_size if max_size is None else max_size
        return _Fetch(self.sources, self.directory, found, prefixes, deadline, limit, expand).run(known)


@dataclass(frozen=True)
class _Fetch:
    """One payload that the allowlist has let pass."""

    sources: Sources
    directory: DownloadDirectory
    reference: Reference
    prefixes: tuple[Location, ...]
    deadline: Deadline
    max_size: int
    expand: bool

    @property
    def location(self) -> Location:
        return self.reference.location

    def run(self, known: Known) -> Fetched | None:
        """Fetch, verify and unpack; None if it has not changed since it was `known`."""
        path = self.directory.new(self.location.name)
        try:
            with Download(
                path, str(self.location), max_size=self.max_size, digest=self.reference.digest
            ) as download:
                found = self._fill(download, known)
                if found is None:
                    path.unlink()
                    return None
                download.verify()
            new, encoding = found
            return Fetched(self._unpack(path, encoding), download.size, new)
        except OSError as error:
            raise TemporaryError(f"{self.location}: cannot write it to disk: {error.strerror}") from error

    def _fill(self, download: Download, known: Known) -> tuple[Known, str] | None:
        """Fetch the bytes; return their validators and their Content-Encoding."""
        match self.location.scheme:
            case "kv":
                found = self._read_key(download, known)
            case "file":
                found = local_file.fill(self.location, self.prefixes, download, self.deadline, known)
            case _:
                request, options = self.sources.request(self.location), self.sources.options
                transfer = Transfer(str(self.location), request, download, options, self.deadline)
                return (transfer.known, transfer.encoding) if transfer.run(known) else None
        return None if found is None else (found, "")

    def _read_key(self, download: Download, known: Known) -> Known | None:
        try:
            value = self.sources.read_key(self.location.path)
        except ConsulRefused as error:
            raise PermanentError(f"{self.location}: {error}") from error
        except ConsulError as error:
            raise TemporaryError(f"{self.location}: {error}") from error
        if value is None:
            raise PermanentError(f"{self.location}: no such key")
        found = Known(etag=hashlib.sha256(value).hexdigest())
        if found == known:
            return None
        download.write(value)
        return found

    def _unpack(self, path: Path, encoding: str) -> Path:
        if not self.expand:
            return path
        expected = announced(self.location.name, encoding)
        return unpack(str(self.location), path, expected, self.sources.options.max_expanded, self.deadline)


def read_reference(text: str, digest: str | None = None) -> Reference:
    """Parse a reference; `digest` takes the place of the one in it.

    Raises:
        PermanentError: either cannot be used.
    """
    try:
        reference = parse_reference(text)
        return Reference(reference.location, parse_digest(digest)) if digest else reference
    except ValueError as error:
        raise PermanentError(f"the reference cannot be used: {error}") from error
