"""A stand on which the core runs as in the daemon, but for its clock, its check and its handlers.

Journal and tree are real and lie in a temporary directory; time moves when a test says so.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from agentd.accounts import Accounts
from agentd.apply.attempts import Attempts
from agentd.apply.commit import Committer
from agentd.apply.convergence import Convergence
from agentd.apply.first_commit import FirstCommit
from agentd.apply.observer import Observer
from agentd.apply.worker import Worker
from agentd.config.load import ConfiguredHandler, HandlerEntry
from agentd.handler import Change, Context, Drift, Event, Handler, KeyState, Notification, Verdict
from agentd.heartbeat import Heartbeat
from agentd.journal.entry import Ending
from agentd.journal.history import Wanted, history
from agentd.journal.journal import Journal
from agentd.journal.pauses import Pauses
from agentd.nginx.inputs import Inputs
from agentd.sources.fetcher import Sources
from agentd.tree.tree import Tree


@dataclass
class Clock:
    """Unix time that stands still."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def event(identity: str, payload: str = "", name: str = "deploy") -> Event:
    """A user event."""
    raw = {"ID": identity, "Name": name, "Payload": base64.b64encode(payload.encode()).decode(), "LTime": 1}
    return Event("event", raw)


def state(value: str, index: int = 1, key: str = "site") -> KeyState:
    """The state of a key."""
    return KeyState(f"key:{key}", {"Key": key, "Value": base64.b64encode(value.encode()).decode()}, index)


class Scribe(Handler):
    """Does what the payload says (`write A=1`, `remove A`, `run true`, `store A=1`, `reload`), or raises.

    Attributes:
        calls: payloads and notifications, in the order in which they were handled.
        raises: by payload: errors raised one after the other, and none when they are used up.
    """

    calls: list[str]
    raises: dict[str, list[BaseException]]

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401 (as Handler's)
        super().__init__(options or Handler.Options())
        self.calls, self.raises = [], {}

    def handle(self, change: Change, context: Context) -> None:
        """Do as it says."""
        text = _text(change)
        self.calls.append(text)
        for command in text.split(";"):
            self._do(command.strip(), context)
        if self.raises.get(text):
            raise self.raises[text].pop(0)

    def _do(self, command: str, context: Context) -> None:
        verb, _, rest = command.partition(" ")
        name, _, value = rest.partition("=")
        if verb == "write":
            context.files.write(name, value.encode())
        elif verb == "remove":
            context.files.remove(name)
        elif verb == "store":
            context.store[name] = value
        elif verb == "reload":
            context.reload()
        elif verb == "run":
            context.run([rest])


def _text(change: Change) -> str:
    if isinstance(change, Event):
        return change.payload.decode()
    if isinstance(change, KeyState):
        return (change.value or b"").decode()
    return f"{change.kind} {change.id}"


class Prover(Handler):
    """Proves what it is told to.

    Attributes:
        verdicts: what each proof raises, or returns if it is a text, in order; without one it succeeds.
        saw: the generations that were current at each proof.
    """

    proves: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401 (as Handler's)
        super().__init__(options or Handler.Options())
        self.verdicts: list[BaseException | str | None] = []
        self.saw: list[int] = []

    def handle(self, change: Change, context: Context) -> str | None:
        """Prove the current generation."""
        assert isinstance(change, Notification)
        self.saw.append(context.generation)
        verdict = self.verdicts.pop(0) if self.verdicts else None
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict


class Verifier(Scribe):
    """A scribe that verifies.

    Attributes:
        verdicts: what it finds, in order; without one, all is as it should be. An error is raised.
        asked: the generations that were current when it was asked.
    """

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401 (as Handler's)
        super().__init__(options)
        self.verdicts: list[Verdict | Exception] = []
        self.asked: list[int] = []

    def verify(self, context: Context) -> Verdict:
        """Find what it was given."""
        self.asked.append(context.generation)
        verdict = self.verdicts.pop(0) if self.verdicts else Verdict()
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


def drift(reason: str = "it is off", part: str = "the thing") -> Verdict:
    """A verdict with one drift."""
    return Verdict(drift=(Drift(part, reason),))


class Pulse(Heartbeat):
    """Counts beats."""

    def __init__(self) -> None:
        super().__init__("test", time.monotonic, 0.0)
        self.longest = 0.0
        self.beats = 0

    def beat(self, good_for: float) -> None:
        """Count it."""
        self.beats += 1
        self.longest = max(self.longest, good_for)


@dataclass
class Stand(Observer):
    """Everything but the threads; it observes its own engine.

    Attributes:
        check: raises what is in it, first come first served, and accepts when it is empty.
        told: names of handlers that were notified.
        endings: the outcomes.
        reloads: the results of proofs.
        drifts: how much stands and how much was mended, at each verification.
        gauges: what the last verdicts published.
        paused_since: what workers said of their pauses.
        inputs: what nginx reads beside the tree.
    """

    directory: Path
    clock: Clock = field(default_factory=Clock)
    check: list[Exception] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    reloads: list[str] = field(default_factory=list)
    drifts: list[tuple[int, int]] = field(default_factory=list)
    gauges: dict[str, float] = field(default_factory=dict)
    paused_since: list[float | None] = field(default_factory=list)
    inputs: Inputs = field(default_factory=lambda: Inputs("", 0.0))
    refuses: Callable[[Path], Exception | None] = lambda _candidate: None

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Open the journal and the tree, as a start of the daemon does."""
        self.journal = Journal(self.directory / "state" / "journal.db", clock=self.clock)
        self.tree = Tree(
            self.directory / "tree",
            keep=5,
            check=self._check,
            stamp=lambda number: {"agentd.conf": f"# {number}\n".encode()},
            mirror=self.directory / "state" / "mirror",
            prefix="agentd",
            clock=self.clock,
        )
        self.committer = Committer(self.tree, self.journal, observer=self)
        self.pauses = Pauses(self.directory / "state", clock=self.clock, timer=self.clock)

    def notified(self, handlers: Sequence[str]) -> None:
        """Note them."""
        self.told.extend(handlers)

    def ended(self, ending: Ending) -> None:
        """Note it."""
        self.endings.append(ending)

    def reloaded(self, result: str, seconds: float) -> None:  # noqa: ARG002 (the interface)
        """Note the result."""
        self.reloads.append(result)

    def drifted(self, handler: str, standing: int, mended: int) -> None:  # noqa: ARG002 (the interface)
        """Note it."""
        self.drifts.append((standing, mended))

    def paused(self, handler: str, *, since: float | None) -> None:  # noqa: ARG002 (the interface)
        """Note since when."""
        self.paused_since.append(since)

    def gauged(self, handler: str, gauges: Mapping[str, float]) -> None:  # noqa: ARG002 (the interface)
        """Note them."""
        self.gauges.update(gauges)

    def restart(self) -> None:
        """Begin again on what is on disk."""
        self.journal.close()
        self.open()
        self.committer.recover()

    def _check(self, candidate: Path) -> None:
        if self.check:
            raise self.check.pop(0)
        error = self.refuses(candidate)
        if error is not None:
            raise error

    def worker(
        self,
        handler: Handler,
        name: str = "scribe",
        *,
        provers: Sequence[str] = (),
        sources: Sources | None = None,
        opened: Callable[[Event], Event] = lambda event: event,
        **entry: Any,  # noqa: ANN401 (fields of HandlerEntry)
    ) -> Worker:
        """A worker whose initial files are committed; its thread is not started."""
        worker = self.raw_worker(handler, name, provers=provers, sources=sources, opened=opened, **entry)
        self.found(worker)
        assert worker.ready.is_set()
        return worker

    def found(self, *workers: Worker, provers: Sequence[str] = ()) -> None:
        """One attempt at committing the initial files of these handlers together."""
        FirstCommit(workers, self.committer, provers=provers, heartbeat=Pulse(), done=lambda: None).attempt()

    def raw_worker(  # noqa: PLR0913 (as Attempts has)
        self,
        handler: Handler,
        name: str = "scribe",
        *,
        provers: Sequence[str] = (),
        heartbeat: Pulse | None = None,
        told_by: Sequence[str] = (),
        verifiers: Sequence[str] = (),
        settle: Callable[[Sequence[str]], Sequence[str]] = lambda _names: (),
        sources: Sources | None = None,
        accounts: Accounts | None = None,
        mend: bool = True,
        opened: Callable[[Event], Event] = lambda event: event,
        recall: Callable[[], tuple[Sequence[Event], bool]] = lambda: ((), False),
        **entry: Any,  # noqa: ANN401 (fields of HandlerEntry)
    ) -> Worker:
        """A worker that has done nothing yet; `pauses` says when it is paused."""
        retry = {"attempts": 3, "first": 1.0, "longest": 8.0} | entry.pop("retry", {})
        configured = _Ready(
            name, HandlerEntry(use="tests:x", retry=retry, **entry), type(handler), handler.options
        )
        configured.handler.append(handler)
        attempts = Attempts(
            configured,
            committer=self.committer,
            nginx=None,
            provers=provers,
            heartbeat=heartbeat or Pulse(),
            clock=self.clock,
            told_by=told_by,
            verifiers=verifiers,
            settle=settle,
            sources=sources,
            accounts=accounts,
            mend=mend,
            opened=opened,
            recall=recall,
        )
        queries = [str(on.query()) for on in configured.entry.on] or ["key:site"]
        convergence = Convergence(attempts, queries, lambda: self.inputs)
        return Worker(attempts, convergence, lambda: self.pauses.of(name))

    def receive(self, *changes: Change, handler: str = "scribe") -> None:
        """Owe changes to a handler."""
        self.journal.receive([(change, [handler]) for change in changes], ended=self.ended)

    @property
    def files(self) -> dict[str, bytes]:
        """What is current."""
        view = self.tree.open_current()
        return {path: view.read(path) or b"" for path, entry in view.files.items() if entry.owner is not None}

    @property
    def outcomes(self) -> Mapping[str, str | None]:
        """Outcome by change id, None while there is none; notifications and timers left out."""
        rows = history(self.journal, limit=10_000)
        return {row["id"]: row["outcome"] for row in rows if row["kind"] not in ("notification", "timer")}

    def reason(self, identity: str) -> str:
        """Why a change ended as it did."""
        return str(history(self.journal, Wanted(identity=identity))[0]["reason"])


@dataclass(frozen=True)
class _Ready(ConfiguredHandler):
    """A configured handler whose object the test made."""

    handler: list[Handler] = field(default_factory=list)

    def build(self) -> Handler:
        """The test's own."""
        return self.handler[0]


def step(worker: Worker) -> float:
    """One step of the worker. Returns the seconds until its next, 0 if it did something."""
    pause = worker.step()
    return pause.seconds if pause else 0.0


def settle(worker: Worker, turns: int = 50) -> float:
    """Let the worker do all that can be done now. Returns the seconds until its next look."""
    for _ in range(turns):
        if wait := step(worker):
            return wait
    raise AssertionError(f"the worker is still busy after {turns} turns")
