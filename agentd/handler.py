"""Everything that the author of a handler imports.

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

import signal
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from agentd.background import Background
from agentd.digest import digest
from agentd.errors import HandlerError, PermanentError, TemporaryError, UnderWay
from agentd.limits import Limits
from agentd.options import LimitOptions, NginxOptions, Options, Size
from agentd.section import Duration
from agentd.verdict import Drift, Verdict
from agentd.watch.changes import (
    LOG_EPOCH,
    Change,
    ChecksState,
    Event,
    Instance,
    KeyPrefixState,
    KeyState,
    Message,
    NodesState,
    Notification,
    ServicesState,
    ServiceState,
    Timer,
)

__all__ = [
    "LOG_EPOCH",
    "Background",
    "Change",
    "ChecksState",
    "Completed",
    "Context",
    "Drift",
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
    "LimitOptions",
    "Limits",
    "Log",
    "Message",
    "NginxOptions",
    "NodesState",
    "Notification",
    "PermanentError",
    "ServiceState",
    "ServicesState",
    "Size",
    "Task",
    "TaskContext",
    "Tasks",
    "TemporaryError",
    "Timer",
    "UnderWay",
    "Verdict",
    "digest",
]

T = TypeVar("T")


class HandlerOptions(Options):
    """The base of a handler's `options:`: frozen, and an unknown field is refused."""


class Files(Protocol):
    """The tree as one attempt sees it: the current files, overlaid with what this attempt has staged.

    A path is relative to the generation, with forward slashes, such as "tickets/current.key".
    """

    def read(self, path: str) -> bytes | None:
        """The staged or current content, or None if there is no such file."""

    def path(self, path: str) -> Path | None:
        """A file on disk with the staged or current content, or None. Only for reading, in this attempt."""

    def write(self, path: str, data: bytes, mode: int = 0o644, *, secret: bool = False) -> None:
        """Stage a file. Raises PermanentError if the path leaves the tree or belongs to another handler.

        Once a file that is `secret` is removed or gets other content, no copy of what was in it stays on the
        disk: older generations get all files that the handler has then, and payloads that contain it are
        wiped. `agentd rollback` then leaves this handler's files and store as they are.
        """

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Stage a copy of a file on disk, such as a large list made by a program; otherwise like `write`."""

    def remove(self, path: str) -> None:
        """Stage a removal; it is not an error if there is no such file."""

    def paths(self, prefix: str = "") -> list[str]:
        """This handler's files whose paths begin with `prefix`, staged ones included, sorted."""

    def reference(self, path: str) -> str:
        """How nginx's configuration names the file: relative to its own directory, through `current`."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that has ended. `output` is the end of what it printed: 4 KiB unless `keep` says more."""

    returncode: int
    output: bytes
    duration: float

    @property
    def ending(self) -> str:
        """How it ended, in words: "ended with status 3", "was ended by SIGSEGV"."""
        if self.returncode >= 0:
            return f"ended with status {self.returncode}"
        try:
            return f"was ended by {signal.Signals(-self.returncode).name}"
        except ValueError:  # a real-time signal has no name
            return f"was ended by signal {-self.returncode}"


class Run(Protocol):
    """Runs a program; see `Context.run`."""

    def __call__(  # noqa: PLR0913 (a process has this many sides; all but one are named at the call)
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,
        most: int | None = None,
        limits: Limits | None = None,
        background: Background | None = None,
    ) -> Completed:
        """Run `argv` without a shell, in a separate process group; return the last `keep` bytes it printed.

        With `most`, it is ended once it has printed more bytes than that. `limits` are for a program that
        does not apply them itself.

        With `background`, processes that it leaves behind when it ends by itself are looked for and logged,
        and are kept or ended; without, those in its group are ended.

        Raises:
            TemporaryError: it could not be started, ran out of time (the whole group is ended), or, with
                `check`, ended with a status other than 0; the message quotes the end of its output.
            PermanentError: it printed more than `most`.
        """


@dataclass(frozen=True, slots=True)
class Known:
    """What a server said about a payload, so that it can be asked later whether there is a newer one.

    Plain strings, "" for what the server did not say, or said wrongly, so that `context.store` can hold them.
    They are a server's word, not a proof: use them only while what came with them is still in force, and
    fetch without them from time to time.
    """

    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A payload on disk. `size` is the number of bytes as served, before they were unpacked."""

    path: Path
    size: int
    known: Known


class Fetch:
    """Fetches a payload by reference; see `Context.fetch`. This base class refuses every reference.

    A reference is "SCHEME:... [sha256:HEX]" with kv:PATH, file:/PATH, http(s)://, s3://BUCKET/KEY or
    gs://BUCKET/KEY, and must be below a prefix in `sources.allow`.
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
        """Return a file that contains the payload; it is removed when the attempt ends.

        Args:
            reference: as above. The digest is that of the bytes as served, checked before this returns.
            max_size: the most bytes as served, instead of `sources.max_size`.
            expand: decompress what is compressed with gzip or Zstandard, as its content tells.
            digest: instead of one in the reference; here "md5:HEX" and "sha1:HEX" are accepted as well.
            rate: the most bytes per second, on average.

        Raises:
            PermanentError: not allowed, not there, too large, or its digest differs.
            TemporaryError: the network or the server failed, or no time is left; `retry_after` is what the
                server asked for.
        """
        fetched = self.if_changed(
            reference, Known(), max_size=max_size, expand=expand, digest=digest, rate=rate
        )
        if fetched is None:
            source = reference.partition("?")[0]
            raise TemporaryError(f"{source}: the server answered 304 to an unconditional request")
        return fetched.path

    def permitted(self, reference: str) -> None:
        """Check that the reference could be fetched, without fetching it.

        Raises:
            PermanentError: it has a typing error, or sources.allow does not cover it.
        """
        raise PermanentError(f"nothing can be fetched here: {reference.partition('?')[0]}")

    def if_changed(
        self,
        reference: str,
        known: Known,  # noqa: ARG002 (for subclasses)
        *,
        max_size: int | None = None,  # noqa: ARG002
        expand: bool = True,  # noqa: ARG002
        digest: str | None = None,  # noqa: ARG002
        rate: float | None = None,  # noqa: ARG002
    ) -> Fetched | None:
        """The same, but None if the payload is still the `known` one; `Known()` matches none."""
        raise PermanentError(f"nothing can be fetched here: {reference.partition('?')[0]}")


class Log(Protocol):
    """A structlog logger bound to handler and change: a constant dotted event name, data in fields."""

    def debug(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (structlog's own signature)
        """Details for debugging."""

    def info(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """What happened."""

    def warning(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """Something that somebody should look at."""

    def error(self, event: str, **fields: Any) -> Any:  # noqa: ANN401 (as above)
        """Something that somebody must look at."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task may use; it ends with the task. See `Context.task`.

    Attributes:
        fetch: fetches a payload by reference, within `sources.total_timeout`.
        run: runs a program within what is left of the task's time.
        log: the logger.
        directory: a private directory, removed once nobody asks for the task any more.
        dry_run: True in a dry run: nothing outside `directory` may be touched.
    """

    fetch: Fetch
    run: Run
    log: Log
    directory: Path
    dry_run: bool = False


class Task(Generic[T]):
    """Work that goes on outside the handler's calls.

    Attributes:
        waits: why it has not begun, "" once it has.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.waits = ""
        self._outcome: tuple[T | None, Exception | None] | None = None

    @property
    def done(self) -> bool:
        """Whether it has returned or raised."""
        return self._outcome is not None

    def result(self) -> T:
        """What it returned.

        Raises:
            UnderWay: it is not done.
            Exception: whatever it raised.
        """
        if self._outcome is None:
            raise UnderWay(self.waits or f"{self.key}: under way")
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # None only if T is

    def run(self, work: Callable[[], T]) -> None:
        """Do the work, and keep what comes of it; only agentd itself calls this."""
        value: T | None = None
        raised: Exception | None = None
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 (carried to whoever asks for the result)
            raised = error
        except BaseException as error:  # noqa: BLE001 (SystemExit and the like must not reach a worker)
            raised = RuntimeError(f"the task raised {type(error).__name__}")
        self.settle(value, raised)

    def settle(self, value: T | None, error: Exception | None) -> None:
        """It is done, unless it was before; only agentd itself calls this."""
        if self._outcome is None:
            self._outcome = value, error


class Tasks:
    """Starts tasks; see `Context.task`. This base class starts none."""

    def __call__(self, key: str, work: Callable[[TaskContext], T]) -> Task[T]:  # noqa: ARG002 (for subclasses)
        """The task of this key: started if there is none yet, and not started again while there is.

        What is slow because somebody else is (a download, and what must be made of it) belongs here, not into
        a call: it holds up neither other changes nor timed work. `work` runs in a thread of its own, within
        `sources.total_timeout` and the handler's timeout together; it must touch nothing but its context, and
        return whatever a later call needs. In a dry run it is done at once.

        A task belongs to the change, or to the timed work, that asked for it. `handle` lets `UnderWay` pass,
        and is called again when the task is done; until then later changes are handled, which know of it by
        `Context.overtakes`. `due` looks at `done`, and is called again, too. What asks for a task that is
        done gets it again until the change has ended, or until `due` has returned without asking for it, so
        that a commit that fails costs no second download. If `handle` raises TemporaryError, the next attempt
        starts the task anew; a restart of agentd forgets all tasks, and the changes ask again.

        Args:
            key: what it does, as messages name it; without secrets.
            work: does it.
        """
        raise PermanentError(f"{key}: no task can be started here")


@dataclass(frozen=True, slots=True)
class Context:
    """What one attempt may touch.

    Attributes:
        handler: the name of the configured handler.
        now: unix time, in seconds, at which the attempt began; use it instead of the clock.
        files: the staged tree.
        store: small JSON values that are committed together with the files, and rolled back with them. Two
            keys have a meaning: "gauges" (name: number) become metrics; "status" is a list of what `agentd
            status` shows, each {"part": name} and, where they apply, "since" and "next" (unix times: how old
            it is, and when it is renewed) and "trouble" (a sentence that says what is wrong with it now).
        log: the logger.
        run: runs a program within what is left of the attempt's time; a dry run only reports that it would.
        nginx: the nginx of this node.
        fetch: fetches a payload by reference, within what is left of the attempt's time.
        task: has something done outside the attempt and its time, such as a download; see `Tasks`.
        place: the change's place in the order in which changes arrived on this node; 0 for timed work.
        overtakes: the place of the oldest change that arrived before this one and waits for a task; None if
            there is none. If both touch the same thing, remember that, so that the older one, handled later,
            does not undo this one.
        mend: False with `drift: report`: that what stands outside the tree differs from what is committed is
            only to be told. What a new change needs, and what was lost before agentd started, is made.
        dry_run: True in `agentd replay --dry-run`: nothing outside `files` and `store` may be touched.
        generation: the number of the current generation, 0 before the first.
        timeout: seconds that one attempt may take.
        last_attempt: whether the change ends as failed if this attempt raises TemporaryError.
        reload: asks for a reload, for what takes effect in no other way: if this attempt's commit changes a
            file, the handlers that prove and that notify this one are notified of it. One that proves is
            notified itself, whether or not a file changed; also when `due` or `verify` asks.
    """

    handler: str
    now: float
    files: Files
    store: MutableMapping[str, Any]
    log: Log
    run: Run
    nginx: NginxOptions
    mend: bool = True
    dry_run: bool = False
    generation: int = 0
    fetch: Fetch = field(default_factory=Fetch)
    task: Tasks = field(default_factory=Tasks)
    place: int = 0
    overtakes: int | None = None
    timeout: float = 60.0
    last_attempt: bool = False
    reload: Callable[[], None] = lambda: None


class Handler:
    """The base of every handler. One object serves one entry of the YAML map, from one thread at a time.

    Attributes:
        proves: True for a handler that, when notified, proves that the new generation is live. A change whose
            commit notified such a handler ends as applied once the proof succeeds; if it raises
            PermanentError, the tree is flipped back and the change ends as failed. The handlers in its own
            `notify` are notified after each successful proof.
        converges: whether the newest state that failed is tried again, after its outcome, until it succeeds.
            False for a handler whose every attempt has side effects.
        side_effects: True for a handler whose calls do what staging cannot undo, such as running a program of
            the operator's. Each of its changes is then recorded before the next is begun, and none is begun
            while that could not be recorded; after a kill only the one that was begun is handled again.
        runs_once: True for a handler whose events say what is to be done, once and at about that time, not
            what is to hold. It is not given a message of the fleet's log that it had before, as it was
            heard, to bring the log's order about; nor one that is older than its own first start.
        secret_payload: whether what it is sent is secret, so that its events cannot be kept in the fleet's
            log (see `keep`) as they are.
        store_format: the format of what it keeps in `context.store`. Increase it whenever the previous
            version of the handler could no longer use the store; agentd refuses to run a handler on a store
            of another format.
    """

    Options: ClassVar[type[HandlerOptions]] = HandlerOptions
    proves: ClassVar[bool] = False
    converges: bool = True
    side_effects: ClassVar[bool] = False
    runs_once: ClassVar[bool] = False
    secret_payload: ClassVar[bool] = False
    store_format: ClassVar[int] = 1

    def __init__(self, options: HandlerOptions) -> None:
        self.options = options

    @property
    def payload_life(self) -> float | None:
        """Seconds for which payloads are kept after their change has ended; None: `journal.replayable`."""
        return None

    def initial(self, context: Context) -> None:
        """Stage what nginx needs before any change has arrived. Called at every start."""

    def handle(self, change: Change, context: Context) -> str | None:
        """Stage files, run processes, or raise TemporaryError or PermanentError.

        Any other exception is a bug in the handler: it is logged with its traceback, and the change is
        retried like a failed one.

        Returns:
            None. A handler that proves may return a sentence for the operator that says why there was nothing
            to prove: what waited for the proof then ends as applied, and its outcome quotes the sentence.
        """
        raise NotImplementedError

    def render(self, context: Context) -> None:
        """Stage what is made of everything that the handled changes left in the files and in the store.

        Called once before each commit of changes, after the last `handle`: what takes the same time for one
        change as for a thousand belongs here. A change counts as applied if its `handle` staged or stored
        something. In a commit of one change this is part of its call: what is staged here counts as well.

        It may raise what `handle` may. If it does after several changes, they are all handled again, and this
        is called after each, so that only the one at fault is refused or retried.
        """

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (for subclasses)
        """Do the timed work that is due at `now` (unix seconds).

        Called at the start, after every commit of this handler, at the time that it last returned, and just
        before a handler that proves and that notifies this one makes nginx reload, so that what the reload
        would lose can be committed.

        Returns:
            The unix time of the next timed work, or None if there is none.

        Raises:
            PermanentError: it could not be done; the history shows why. `due` is called again at once, and
                must then return when to be called next.
        """
        return None

    @property
    def verify_every(self) -> float:
        """Seconds between two calls of `verify` while nothing changes."""
        return 60.0

    def verify(self, context: Context) -> Verdict:  # noqa: ARG002 (for subclasses)
        """Ask whether what this handler committed takes effect outside the tree, and mend what can be mended.

        Called at the start, once what the handler committed is live (its files proved, if a handler that it
        notifies proves them), and every `verify_every` seconds; more often while something does not hold.
        A committed change, of this handler or of one that notifies it, ends as applied only after a verdict
        without drift, but does not hold up later ones. What is staged is dropped. In a dry run
        (`agentd check`), or without `context.mend`, nothing may be mended.

        Raises:
            TemporaryError: it cannot be asked now, which counts as drift with this reason.
        """
        return Verdict()

    def fingerprint(self, context: Context) -> str | None:  # noqa: ARG002 (for subclasses)
        """Say in a few characters what is in force, so that the nodes of a fleet can be compared.

        Called in a fleet only, at the start, and after whatever this handler did or had committed (changes,
        timed work, rollbacks). Two nodes with the same options that took the same messages must return the
        same: leave out what is a node's own, such as its addresses, times, and lists fetched at different
        moments. It is shown to everybody in the fleet: never a secret, nor what one could be guessed from.
        What is staged is dropped. If it raises, that is told, and this node is not compared.

        Returns:
            At most 128 characters, such as the beginning of a SHA-256; None if there is nothing to compare.
        """
        return None

    def report(self, context: Context) -> Mapping[str, Any]:  # noqa: ARG002 (as above)
        """Say what else the fleet should know of this node; called together with `fingerprint`.

        Returns:
            Small JSON values, at most 2 KiB in all, such as {"ring": [{"key": digest, "since": unix time}]}.
            The handlers of one kind use the same keys. Never a secret.
        """
        return {}

    def preflight(self, context: Context) -> Sequence[Drift]:  # noqa: ARG002 (for subclasses)
        """Say what would go wrong at the first change; `agentd check` asks, in a dry run.

        Only what a validator of the options cannot know, such as whether a reference may be fetched.

        Returns:
            What is wrong; `part` is the option, such as "lists.drop.reference", so that its line is quoted.
        """
        return ()

    def hold(self, now: float, context: Context) -> float:  # noqa: ARG002 (for subclasses)
        """How many seconds to hold back what is waiting, so that later changes can join it; 0 to go ahead."""
        return 0.0

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:  # noqa: ARG002 (as above)
        """Say which of the waiting events are superseded by another one; they end as expired.

        Called whenever the waiting events are not the same as last time, before any of them is handled. Those
        that wait for a task are among them.
        Replays are left out: whoever replays an event wants it handled. A message whose event was given
        before, as it was heard, has "#2" (or "#3" ...) at the end of its ID here, though not in `handle`.

        Returns:
            The ID of each such event -> the ID of the one that replaces it.
        """
        return {}
