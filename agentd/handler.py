"""All that the author of a handler imports.

A handler turns one change into staged files. It never talks to Consul, never writes where nginx reads, and
never claims what it did: the tree finds out what differs, and the worker records the outcome.

    class Motd(Handler):
        class Options(HandlerOptions):
            path: str = "motd/motd.txt"

        options: Options

        def handle(self, change: Change, context: Context) -> None:
            if isinstance(change, KeyState) and change.value is not None:
                context.files.write(self.options.path, change.value)
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from agentd.errors import HandlerError, PermanentError, TemporaryError
from agentd.options import Duration, NginxOptions, Options
from agentd.source_options import Size
from agentd.watch.changes import (
    Change,
    ChecksState,
    Event,
    Instance,
    KeyPrefixState,
    KeyState,
    NodesState,
    Notification,
    ServicesState,
    ServiceState,
    Timer,
)

__all__ = [
    "Change",
    "ChecksState",
    "Completed",
    "Context",
    "Duration",
    "Event",
    "Fetch",
    "Fetched",
    "Files",
    "Handler",
    "HandlerError",
    "HandlerOptions",
    "Instance",
    "KeyPrefixState",
    "KeyState",
    "Known",
    "Log",
    "NginxOptions",
    "NoFetch",
    "NodesState",
    "Notification",
    "PermanentError",
    "ServiceState",
    "ServicesState",
    "Size",
    "TemporaryError",
    "Timer",
]


class HandlerOptions(Options):
    """The base of a handler's `options:`: frozen, and an unknown field is refused."""


class Files(Protocol):
    """The tree as one attempt sees it: what is current, and over it what this attempt has staged.

    A path is relative to the generation, with forward slashes, such as "tickets/current.key".
    """

    def read(self, path: str) -> bytes | None:
        """The staged or current content, or None if there is no such file."""

    def path(self, path: str) -> Path | None:
        """A file on disk of the staged or current content, or None: to be read only, within the attempt."""

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Stage a file. Raises PermanentError if the path leaves the tree or belongs to another handler."""

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Stage a copy of a file on disk, such as a large list that a program made; else like `write`."""

    def remove(self, path: str) -> None:
        """Stage a removal; a file that is not there is not an error."""

    def paths(self, prefix: str = "") -> list[str]:
        """This handler's files, staged ones included, that begin with `prefix`, sorted."""

    def reference(self, path: str) -> str:
        """How nginx's configuration names the file: relative to its own directory, through `current`."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that ended. `output` is the end, 4 KiB unless more was asked, of all that it printed."""

    returncode: int
    output: bytes
    duration: float


class Run(Protocol):
    """Runs a program; see `Context.run`."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,
    ) -> Completed:
        """Run `argv` without a shell in a process group of its own; `keep` bytes of its output are returned.

        Raises:
            TemporaryError: it could not be started, ran out of time (the whole group is ended), or, with
                `check`, ended with a status other than 0; the message quotes the end of its output.
        """


@dataclass(frozen=True, slots=True)
class Known:
    """What a server said of a payload, by which it can tell later whether there is a newer one.

    Plain strings, "" for what it did not say, so that `context.store` can hold them.
    """

    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A payload on disk. `size` is the number of bytes as served, before they were unpacked."""

    path: Path
    size: int
    known: Known


class Fetch(Protocol):
    """Fetches a payload that is named by reference; see `Context.fetch`.

    A reference is "SCHEME:... [sha256:HEX]" with kv:PATH, file:/PATH, http(s)://, s3://BUCKET/KEY or
    gs://BUCKET/KEY, and must lie below a prefix of `sources.allow`.
    """

    def __call__(
        self,
        reference: str,
        *,
        max_size: int | None = None,
        expand: bool = True,
        digest: str | None = None,
        rate: float | None = None,
    ) -> Path:
        """Return a file that holds the payload; it goes away with the attempt.

        Args:
            reference: as above. The digest is that of the bytes as served, checked before this returns.
            max_size: most bytes as served, in place of `sources.max_size`.
            expand: unpack what the name (.gz, .zst) or the server (Content-Encoding) says is packed.
            digest: in place of one in the reference; "md5:HEX" and "sha1:HEX" are taken here as well.
            rate: most bytes a second, on average.

        Raises:
            PermanentError: not allowed, not there, too large, or not what the digest says.
            TemporaryError: the network, the server or the time; `retry_after` is the server's own word.
        """

    def if_changed(
        self,
        reference: str,
        known: Known,
        *,
        max_size: int | None = None,
        expand: bool = True,
        rate: float | None = None,
    ) -> Fetched | None:
        """The same, but None if the payload is still the one that was `known`; `Known()` knows none."""


class NoFetch:
    """A `Fetch` that knows no source."""

    def __call__(self, reference: str, **_: object) -> Path:
        """Raise PermanentError."""
        raise PermanentError(f"nothing can be fetched here: {reference.partition('?')[0]}")

    def if_changed(self, reference: str, known: Known, **_: object) -> Fetched | None:  # noqa: ARG002 (Fetch's own)
        """Raise PermanentError."""
        raise PermanentError(f"nothing can be fetched here: {reference.partition('?')[0]}")


class Log(Protocol):
    """A structlog logger bound to handler and change: a constant dotted event name, data in fields."""

    def debug(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (structlog's own signature)
        """For who looks for a fault."""

    def info(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """What happened."""

    def warning(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """What somebody should look at."""

    def error(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """What somebody must look at."""


@dataclass(frozen=True, slots=True)
class Context:
    """What one attempt may touch.

    Attributes:
        handler: the name of the configured handler.
        now: unix time, in seconds, at which the attempt began; use it instead of the clock.
        files: the staged tree.
        store: small JSON values that are committed together with the files, and rolled back with them.
        log: the logger.
        run: runs a program within what is left of the attempt's time; in a dry run it only says so.
        nginx: the nginx of this node.
        fetch: fetches a payload by reference, within what is left of the attempt's time.
        dry_run: True in `agentd replay --dry-run`: nothing outside `files` and `store` may be touched.
        generation: the number of the generation that is current, 0 before the first.
        last_attempt: whether the change ends as failed if this attempt raises TemporaryError.
    """

    handler: str
    now: float
    files: Files
    store: MutableMapping[str, Any]
    log: Log
    run: Run
    nginx: NginxOptions
    dry_run: bool = False
    generation: int = 0
    fetch: Fetch = field(default_factory=NoFetch)
    last_attempt: bool = False


class Handler:
    """The base of every handler. One object serves one entry of the YAML map, from one thread at a time.

    Attributes:
        proves: True for a handler that, notified, proves that the new generation is live. A change whose
            commit notified such a handler ends as applied once the proof succeeds; when it raises
            PermanentError the tree is flipped back and the change ends as failed. Those in its own `notify`
            are told after each proof that succeeds.
    """

    Options: ClassVar[type[HandlerOptions]] = HandlerOptions
    proves: ClassVar[bool] = False

    def __init__(self, options: HandlerOptions) -> None:
        self.options = options

    def initial(self, context: Context) -> None:
        """Stage what nginx needs to load before any change came. Called at every start."""

    def handle(self, change: Change, context: Context) -> None:
        """Stage files, run processes, or raise TemporaryError or PermanentError.

        Any other exception is a bug in the handler: logged with its traceback, retried, capped.
        """
        raise NotImplementedError

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (for those that override it)
        """Do the timed work whose time has come at `now` (unix seconds).

        Returns:
            The unix time of the next timed work, or None if there is none. Called at the start, after
            every commit of this handler, and when that time comes.

        Raises:
            PermanentError: it could not be done; the history tells why. It is asked again at once, and must
                say then when to be asked next.
        """
        return None

    def hold(self, now: float, context: Context) -> float:  # noqa: ARG002 (for those that override it)
        """How many seconds to hold what waits, so that later changes join it; 0 to go ahead."""
        return 0.0

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:  # noqa: ARG002 (as above)
        """Say which of the events that wait another one makes void; they end as expired.

        Called when other events wait than the last time, before any of them is handled. Replays are not among
        them: who replays an event wants it.

        Returns:
            The id of each such event -> the id of the one that takes its place.
        """
        return {}
