"""From a reference to a file on disk, for every scheme: fence, transfer, digest, unpacking, in this order."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentd.apply import disk
from agentd.apply.sources import local
from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.expand import expand as unpack
from agentd.apply.sources.expand import packing
from agentd.apply.sources.fence import Fence
from agentd.apply.sources.objects import signer
from agentd.apply.sources.room import Room
from agentd.apply.sources.route import Route, SignedRoute, WebRoute
from agentd.apply.sources.sink import Sink
from agentd.apply.sources.transfer import Transfer
from agentd.errors import ConsulError, ConsulRefused, PermanentError, TemporaryError
from agentd.handler import Fetched, Known, Log
from agentd.reference import Location, Reference, parse_digest, parse_reference
from agentd.source_options import SourceOptions

ReadKey = Callable[[str], bytes | None]
"""Reads a key of Consul's KV store, None if there is none; raises ConsulUnavailable or ConsulRefused."""


def _no_keys(path: str) -> bytes | None:
    raise PermanentError(f"kv:{path}: there is no Consul to ask here")


@dataclass(frozen=True)
class Sources:
    """What one configuration may fetch, and from where.

    Args:
        options: the `sources:` section.
        directory: where private directories are made.
        read_key: for kv: references.
    """

    options: SourceOptions
    directory: Path
    read_key: ReadKey = _no_keys
    fence: Fence = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fence", Fence.of(self.options.allow))

    def sweep(self) -> None:
        """Remove what a crash left behind; what cannot be removed is logged."""
        if self.directory.is_dir():
            with suppress(OSError):
                disk.sweep(self.directory)

    def room(self) -> Room:
        """A private directory for one batch."""
        return Room(self.directory)

    def route(self, location: Location) -> Route:
        """How an http(s), s3 or gs location is asked for."""
        if location.scheme == "s3":
            return SignedRoute(str(location), signer(location, self.options.s3))
        if location.scheme == "gs":
            return SignedRoute(str(location), signer(location, self.options.gs))
        return WebRoute(location, self.fence)


@dataclass(frozen=True)
class Fetcher:
    """`Context.fetch` of one call.

    Args:
        room: where the files lie.
        deadline: on the monotonic clock; the end of the call.
        log: told of long transfers.
        stop: ends a transfer once set.
    """

    sources: Sources
    room: Room
    deadline: float
    log: Log
    stop: threading.Event | None = None

    def __call__(
        self,
        reference: str,
        *,
        max_size: int | None = None,
        expand: bool = True,
        digest: str | None = None,
        rate: float | None = None,
    ) -> Path:
        """See `agentd.handler.Fetch`."""
        fetch = self._prepare(_parse(reference, digest), max_size, rate, expand=expand)
        fetched = fetch.run(Known())
        if fetched is None:
            raise TemporaryError(f"{fetch.location}: the server answers what was not asked (304)")
        return fetched.path

    def if_changed(
        self,
        reference: str,
        known: Known,
        *,
        max_size: int | None = None,
        expand: bool = True,
        rate: float | None = None,
    ) -> Fetched | None:
        """See `agentd.handler.Fetch`."""
        return self._prepare(_parse(reference), max_size, rate, expand=expand).run(known)

    def _prepare(
        self, reference: Reference, max_size: int | None, rate: float | None, *, expand: bool
    ) -> _Fetch:
        options = self.sources.options
        prefixes = self.sources.fence.check(reference.location)
        seconds = min(options.total_timeout, self.deadline - time.monotonic())
        source = str(reference.location)
        allowance = Allowance(source, seconds, log=self.log, stop=self.stop, rate=rate)
        allowance.left()
        limit = options.max_size if max_size is None else max_size
        return _Fetch(self.sources, self.room, reference, prefixes, allowance, limit, expand)


@dataclass(frozen=True)
class _Fetch:
    """One payload that the fence has let pass."""

    sources: Sources
    room: Room
    reference: Reference
    prefixes: tuple[Location, ...]
    allowance: Allowance
    max_size: int
    expand: bool

    @property
    def location(self) -> Location:
        return self.reference.location

    def run(self, known: Known) -> Fetched | None:
        """Fetch, verify and unpack; None if it is still what was known."""
        path = self.room.new(self.location.name)
        try:
            with Sink(path, str(self.location), max_size=self.max_size, digest=self.reference.digest) as sink:
                found = self._fill(sink, known)
                if found is None:
                    path.unlink()
                    return None
                sink.verify()
            new, encoding = found
            return Fetched(self._unpack(path, encoding), sink.size, new)
        except OSError as error:
            raise TemporaryError(f"{self.location}: cannot write it to disk: {error.strerror}") from error

    def _fill(self, sink: Sink, known: Known) -> tuple[Known, str] | None:
        """Bring the bytes into the sink; returns what is known of them and their Content-Encoding."""
        match self.location.scheme:
            case "kv":
                found = self._read_key(sink, known)
            case "file":
                found = local.fill(self.location, self.prefixes, sink, self.allowance, known)
            case _:
                route, options = self.sources.route(self.location), self.sources.options
                transfer = Transfer(str(self.location), route, sink, options, self.allowance)
                return (transfer.known, transfer.encoding) if transfer.run(known) else None
        return None if found is None else (found, "")

    def _read_key(self, sink: Sink, known: Known) -> Known | None:
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
        sink.write(value)
        return found

    def _unpack(self, path: Path, encoding: str) -> Path:
        kind = packing(self.location.name, encoding) if self.expand else ""
        largest = self.sources.options.max_expanded
        return unpack(str(self.location), path, kind, largest, self.allowance) if kind else path


def _parse(text: str, digest: str | None = None) -> Reference:
    try:
        reference = parse_reference(text)
        return Reference(reference.location, parse_digest(digest)) if digest else reference
    except ValueError as error:
        raise PermanentError(f"not a usable reference: {error}") from error
