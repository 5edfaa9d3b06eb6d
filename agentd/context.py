"""What agentd gives a handler for one attempt: the staged files, and the means to run, fetch and log.

Handlers import these names from `agentd.handler`. The protocols and base classes here only say what there is;
agentd implements them in the rooms that do the work.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from agentd.background import Background
from agentd.errors import PermanentError, TemporaryError, UnderWay
from agentd.limits import Limits
from agentd.options import NginxOptions
from agentd.watch.changes import KINDS, Change, Event

T = TypeVar("T")


class Files(Protocol):
    """The tree as one attempt sees it: the current files, overlaid with what this attempt has staged.

    A path is relative to the generation, with forward slashes, such as "tickets/current.key".
    """

    def read(self, path: str) -> bytes | None:
        """The staged or current content, or None if there is no such file."""

    def path(self, path: str) -> Path | None:
        """A file on disk with the staged or current content, or None. Read-only, and only in this attempt."""

    def write(self, path: str, data: bytes, mode: int = 0o644, *, secret: bool = False) -> None:
        """Stage a file. Raises PermanentError if the path leaves the tree or belongs to another handler.

        Once a `secret` file is removed or replaced, no copy of its old content stays on the disk: older
        generations get the handler's current files instead, and payloads that contain it are wiped.
        `agentd rollback` leaves the files and the store of such a handler as they are.
        """

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Stage a copy of a file on disk, such as a large list made by a program; otherwise like `write`."""

    def remove(self, path: str) -> None:
        """Stage a removal; it is not an error if there is no such file."""

    def paths(self, prefix: str = "") -> list[str]:
        """This handler's files whose paths begin with `prefix`, staged ones included, sorted."""

    def reference(self, path: str) -> str:
        """The path of the file for use in nginx's configuration: relative to that, through `current`."""


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
        read_only: bool = False,
    ) -> Completed:
        """Run `argv` without a shell, in a separate process group; return the last `keep` bytes it printed.

        A `read_only` program changes nothing outside the scratch directory: it runs in a dry run as well,
        and a change for which nothing but such programs ran, and no file differs, ends as unchanged. Any
        other program is only reported by a dry run, which returns status 0 and no output in its place.

        With `most`, the program is ended once it has printed more bytes than that. `limits` are for a program
        that does not apply them itself.

        With `background`, processes that the program leaves behind when it ends by itself are logged, and
        kept or ended; without, those in its group are ended.

        Raises:
            TemporaryError: it could not be started, ran out of time (the whole group is ended), or, with
                `check`, ended with a status other than 0; the message quotes the end of its output.
            PermanentError: it printed more than `most`.
        """


@dataclass(frozen=True, slots=True)
class Known:
    """The validators that a server sent with a payload, for conditional requests later.

    Plain strings, so that `context.store` can hold them; "" for a missing or malformed one. They are a
    server's word, not a proof: use them only while the payload that came with them is in force, and fetch
    without them from time to time.
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
            expand: decompress gzip and Zstandard, recognised by their content.
            digest: instead of one in the reference; here "md5:HEX" and "sha1:HEX" are accepted as well.
            rate: the most bytes per second, on average.

        Raises:
            PermanentError: not allowed, not there, too large, or its digest differs.
            TemporaryError: the network or the server failed, or no time is left; `retry_after` is the
                server's, if it sent one.
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
        """Like a call, but None if the payload is still the `known` one; `Known()` matches none."""
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
        scratch: a private directory, removed once the task is no longer needed.
        dry_run: True in a dry run: nothing outside `scratch` may be touched.
    """

    fetch: Fetch
    run: Run
    log: Log
    scratch: Path
    dry_run: bool = False


class Task(Generic[T]):
    """Work that continues outside the handler's calls.

    Attributes:
        waits: why it has not begun; "" once it has.
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
        """Do the work, and keep its result or error; only agentd itself calls this."""
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
        """Set the outcome, unless there is one; only agentd itself calls this."""
        if self._outcome is None:
            self._outcome = value, error


class Tasks:
    """Starts tasks; see `Context.task`. This base class starts none."""

    def __call__(self, key: str, work: Callable[[TaskContext], T]) -> Task[T]:  # noqa: ARG002 (for subclasses)
        """Return the task with this key; start it if there is none yet.

        Work that depends on somebody else's speed (a download, and the processing of it) belongs into a task
        and not into a call: it then holds up neither other changes nor timed work. `work` runs in its own
        thread, within `sources.total_timeout` plus the handler's timeout; it must touch nothing but its
        context, and return whatever a later call needs. In a dry run it runs at once.

        A task belongs to the change, or to the timed work, that asked for it. `handle` lets `UnderWay` pass,
        and is called again when the task is done; until then later changes are handled, which see that from
        `Context.overtakes`. `due` looks at `done`, and is called again as well. A finished task stays until
        the change has ended, or until `due` has returned without asking for it, so that a failed commit costs
        no second download. If `handle` raises TemporaryError, the next attempt starts the task anew. A
        restart of agentd loses all tasks; the changes ask for them again.

        Args:
            key: what the task does, for messages; without secrets.
            work: the work.
        """
        raise PermanentError(f"{key}: no task can be started here")


def _no_scratch() -> Path:
    raise TemporaryError("there is no scratch directory here")


@dataclass(frozen=True, slots=True)
class Watched:
    """One item of a handler's `on:`, and the newest state that came of it; see `Context.states`.

    Attributes:
        on: the item with its defaults, such as {"key": "site/motd"}.
        query: the identity of its query, such as "key:site/motd".
        number: of the state, in the order of arrival on this node; 0 if none has come.
        body: the state as Consul answered it, as JSON; None if none has come, or it was wiped since.
        index: of the answer.
        epoch: see `Change`.
    """

    on: Mapping[str, Any]
    query: str
    number: int = 0
    body: str | None = field(default=None, repr=False)
    index: int = 0
    epoch: int = 0

    @property
    def state(self) -> Change | None:
        """The state; None if it is not here."""
        if self.body is None:
            return None
        kind = KINDS[self.query.partition(":")[0].partition("?")[0]]
        return kind(self.query, json.loads(self.body), self.index, self.epoch)


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
        run: runs a program within what is left of the attempt's time; see `Run`. A dry run only reports that
            it would, unless the program is `read_only`.
        nginx: the nginx of this node.
        fetch: fetches a payload by reference, within what is left of the attempt's time.
        task: starts work outside the attempt and its time limit, such as a download; see `Tasks`.
        place: the change's place in the order in which changes arrived on this node; 0 for timed work.
        overtakes: the place of the oldest change that arrived before this one and waits for a task; None if
            there is none. If both touch the same thing, remember that, so that the older one, handled later,
            does not undo this one.
        mend: False with `drift: report`: drift outside the tree is only reported, not mended. What a new
            change needs, or what was lost before agentd started, is created all the same.
        dry_run: True in `agentd replay --dry-run`: nothing outside `files`, `store` and `scratch` may be
            touched.
        generation: the number of the current generation, 0 before the first.
        timeout: seconds that one attempt may take.
        last_attempt: whether the change ends as failed if this attempt raises TemporaryError.
        recall: returns, opened, the newest message in force of each kept name with `keep: latest` that the
            handler takes, from this node's own copy of the log: for `initial`, after a boot took the files of
            secrets (`tree.secrets`). Needs no Consul. What cannot be opened or is not there is left out, and
            the log says why: then write what nginx needs; the message is given again once it can be read.
        states: returns each item of `on` that is a state, in that order, with the newest one that arrived,
            whatever became of it; for a handler that is `joint`. An item that is there twice comes once.
        reload: asks for a reload, for changes that take effect in no other way: if this attempt's commit
            changes a file, the proving handlers that notify this one are notified of it. A handler that
            proves is notified itself, whether or not a file changed; also if `due` or `verify` asks.
        make_scratch: makes `scratch`.
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
    recall: Callable[[], Sequence[Event]] = lambda: ()
    states: Callable[[], Sequence[Watched]] = lambda: ()
    make_scratch: Callable[[], Path] = _no_scratch

    @property
    def scratch(self) -> Path:
        """A private directory on disk (mode 0700) for this call alone, made when it is first asked for.

        It is on the disk of the state directory, not of the tree: copy what nginx is to read from it with
        `files.write_file`. It is removed when the attempt has ended; after a crash, at the next start.

        Raises:
            TemporaryError: it cannot be made, or less would be left on the disk than the journal needs.
        """
        return self.make_scratch()
