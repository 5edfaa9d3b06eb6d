"""The daemon's life: start, SIGHUP reload, SIGTERM drain. It runs in the main thread.

A signal handler only puts a word into a queue; the main loop reads it. Between signals the loop feeds the
watchdog, looks after the tree, and tidies the journal. Nothing that Consul does ends it.
"""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog

from agentd.apply import canary
from agentd.apply.check import NginxCheck
from agentd.apply.commit import Committer
from agentd.apply.journal import Journal
from agentd.apply.outcome import Ending, Outcome
from agentd.apply.tree import Tree
from agentd.backoff import Backoff
from agentd.config import Config, Loaded, OnEvent, load
from agentd.crew import Crew
from agentd.errors import AgentdError, ConfigError, JournalError, TreeError
from agentd.report import log
from agentd.report.heartbeat import Heartbeats
from agentd.report.metrics import Metrics
from agentd.report.status import Status
from agentd.report.systemd import Notifier, Watchdog
from agentd.watch.changes import Change, Event

TICK: Final = 1.0
"""Seconds between two looks at the tree and the heartbeats."""
_TIDY: Final = 3600.0
_READY_ANYWAY: Final = 5.0  # systemd starts nginx after us, and nginx may be what we wait for
_LOCK_PATIENCE: Final = 1.0
_FIXED: Final = ("state", "tree", "nginx", "status")
_log = structlog.get_logger()


def running(state: Path) -> bool:
    """Whether a daemon runs on this state directory."""
    try:
        with (state / "agentd.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def open_tree(config: Config, *, checked: Callable[[float], None] = lambda seconds: None) -> Tree:  # noqa: ARG005 (nobody counts)
    """The tree of this configuration, checked by nginx where there is one.

    Args:
        config: the configuration.
        checked: told how many seconds each check took.
    """
    nginx = config.nginx
    check = NginxCheck(nginx, config.tree.path) if nginx else _unchecked

    def timed(candidate: Path) -> None:
        began = time.monotonic()
        try:
            check(candidate)
        finally:
            checked(time.monotonic() - began)

    return Tree(
        config.tree.path,
        keep=config.tree.keep,
        check=timed,
        stamp=lambda number: {canary.NAME: canary.render(number, nginx, config.prefix)} if nginx else {},
        mirror=config.state / "mirror",
        prefix=config.prefix,
    )


def _unchecked(_candidate: Path) -> None:
    """There is no nginx to ask."""


def run(loaded: Loaded) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status.

    Raises:
        AgentdError: it cannot start: another daemon runs, the state directory or the port cannot be used.
    """
    agent = Agent(loaded)
    words = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}
    for number in words:
        signal.signal(number, lambda received, _frame: agent.commands.put(words[signal.Signals(received)]))
    return agent.run()


class Agent:
    """One daemon. `commands` takes "stop" and "reload"."""

    def __init__(self, loaded: Loaded) -> None:
        self.commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._loaded = loaded
        config = loaded.config
        self._log(config)
        self._notifier = Notifier()
        self._lock = _lock(config.state)
        self._heartbeats = Heartbeats()
        self._watchdog = Watchdog(self._notifier, self._heartbeats)
        self._crew: Crew | None = None
        self._metrics = Metrics(lambda: self._crew.polls() if self._crew else [])
        self._journal = Journal(config.state / "journal.db")
        self._committer = Committer(
            open_tree(config, checked=self._metrics.checked),
            self._journal,
            report=self._report,
            told=self._wake,
            observer=self._metrics,
        )
        self._server = Status(
            config.status, self._heartbeats, self._metrics, not_ready=self._not_ready, snapshot=self._status
        )
        self._backoff = Backoff(0.5, 10.0)
        self._tidied = time.monotonic()

    def run(self) -> int:
        """The main loop."""
        began = time.monotonic()
        _log.info("agent.starting", version=version("agentd"), config=str(self._loaded.path), pid=os.getpid())
        self._server.start()
        if self._recover():
            self._start_crew(self._loaded)
            self._say_ready(began)
            while self._next() != "stop":
                pass
        self._stop()
        return 0

    # -- start

    def _recover(self) -> bool:
        """Finish what a crash interrupted; wait for a tree that cannot be written. False: told to stop."""
        attempt = 0
        while True:
            try:
                self._committer.recover()
            except (TreeError, JournalError) as error:
                attempt += 1
                _log.error("agent.cannot_recover", error=str(error))
                self._notifier.status(f"waiting: {error}")
                if self._wait(self._backoff.delay(attempt)) == "stop":
                    return False
            else:
                return True

    def _start_crew(self, loaded: Loaded) -> None:
        self._loaded = loaded
        handlers = [handler.name for handler in loaded.handlers]
        triggers = [on for handler in loaded.handlers for on in handler.entry.on]
        events = {on.event for on in triggers if isinstance(on, OnEvent)}
        self._metrics.configure(handlers=handlers, events=events)
        self._crew = Crew(loaded, self._committer, self._heartbeats, self)
        self._crew.start()
        for handler in handlers:
            self._publish_gauges(handler)

    def _say_ready(self, began: float) -> None:
        while self._not_ready() and time.monotonic() - began < _READY_ANYWAY:
            if self._wait(0.01) == "stop":
                self.commands.put("stop")
                break
        waiting = self._not_ready()
        self._notifier.ready(f"waiting: {'; '.join(waiting)}" if waiting else "watching")
        _log.info("agent.ready", took=round(time.monotonic() - began, 3), waiting=waiting)

    # -- the loop

    def _wait(self, seconds: float) -> str | None:
        try:
            return self.commands.get(timeout=seconds)
        except queue.Empty:
            return None

    def _next(self) -> str | None:
        word = self._wait(min(TICK, self._watchdog.interval or TICK))
        if word == "reload":
            self._reload()
        self._watchdog.feed()
        try:
            self._look_after()
        except AgentdError as error:
            _log.error("agent.trouble", error=str(error))
        return word

    def _look_after(self) -> None:
        """Restore a tree that somebody deleted, keep the gauges true, tidy the journal once an hour."""
        tree = self._committer.tree
        if not tree.intact():
            _log.error("tree.damaged", path=str(self._loaded.config.tree.path))
            _log.warning("tree.restored", generation=tree.restore())
        self._metrics.generation(tree.current)
        self._metrics.reload_owed(owed=bool(self._journal.owed()))
        if time.monotonic() - self._tidied > _TIDY:
            self._tidied = time.monotonic()
            options = self._loaded.config.journal
            self._journal.tidy(keep=options.keep, replayable=options.replayable)

    def _reload(self) -> None:
        """Take over the configuration file as it is now; a bad one changes nothing."""
        self._notifier.reloading("reloading")
        try:
            loaded = load(self._loaded.path)
            _refuse_fixed(self._loaded, loaded)
        except ConfigError as error:
            _log.error("config.refused", problems=error.problems)
            self._notifier.ready(f"the new configuration was refused: {error.problems[0]}")
            return
        if self._crew:
            left = self._crew.drain(self._loaded.config.drain)
            if left:
                _log.warning("handler.left_behind", handlers=left)
        self._log(loaded.config)
        self._start_crew(loaded)
        _log.info("config.reloaded", handlers=[handler.name for handler in loaded.handlers])
        self._notifier.ready("watching")

    def _stop(self) -> None:
        self._notifier.stopping("draining")
        seconds = self._loaded.config.drain
        left = self._crew.drain(seconds) if self._crew else []
        backlog = self._journal.backlog()
        _log.info("agent.stopped", owed=backlog, left_behind=left)
        self._server.stop()
        self._journal.close()
        with suppress(OSError):
            os.close(self._lock)

    # -- what others call

    def _wake(self, names: Any) -> None:  # noqa: ANN401 (names of handlers)
        if self._crew:
            self._crew.wake(names)

    def received(self, change: Change) -> None:
        """Count a change that came (see `dispatcher.Count`)."""
        if isinstance(change, Event):
            self._metrics.event_received(change.name)

    def missed(self, events: int) -> None:
        """Count events that were lost (see `dispatcher.Count`)."""
        if events:
            self._metrics.events_missed(events)

    def _report(self, ending: Ending) -> None:
        """The canonical line of an outcome, and its count."""
        entry, change = ending.entry, ending.entry.change
        tell = _log.info if ending.outcome in (Outcome.APPLIED, Outcome.UNCHANGED) else _log.warning
        tell(
            f"handler.{ending.outcome}",
            handler=entry.handler,
            query=change.query,
            change=entry.id,
            attempt=entry.attempts + 1,
            generation=ending.generation,
            paths=list(ending.paths),
            duration=round(ending.duration, 4),
            waited=round(ending.waited, 4),
            reason=ending.reason,
        )
        self._metrics.outcome(entry.handler, ending.outcome)
        if ending.outcome is Outcome.REFUSED and isinstance(change, Event):
            self._metrics.event_refused(change.name)
        self._publish_gauges(entry.handler)

    def _publish_gauges(self, handler: str) -> None:
        gauges = self._journal.store(handler).get("gauges")
        for name, value in gauges.items() if isinstance(gauges, Mapping) else ():
            with suppress(ValueError, TypeError):  # a name or number that a metric cannot have
                self._metrics.publish(handler, name, value)

    def _not_ready(self) -> list[str]:
        """Why the daemon is not ready; empty if it is."""
        if self._crew is None:
            return ["the tree or the journal cannot be used yet"]
        return [f"the first files of {name} are not committed" for name in self._crew.not_ready()]

    def _status(self) -> dict[str, Any]:
        crew = self._crew
        return {
            "version": version("agentd"),
            "pid": os.getpid(),
            "config": str(self._loaded.path),
            "generation": self._committer.tree.current,
            "reload_owed": self._journal.owed(),
            "backlog": self._journal.backlog(),
            "not_ready": self._not_ready(),
            "stuck": self._heartbeats.stale(),
            "queries": [
                {name: getattr(status, name) for name in status.__dataclass_fields__}
                for status in (crew.polls() if crew else [])
            ],
        }

    @staticmethod
    def _log(config: Config) -> None:
        form = config.log.format
        log.configure(config.log.level, json=None if form == "auto" else form == "json")


def _refuse_fixed(old: Loaded, new: Loaded) -> None:
    changed = [name for name in _FIXED if getattr(old.config, name) != getattr(new.config, name)]
    if changed:
        raise ConfigError([f"{new.path}: {', '.join(changed)}: a change here needs a restart of agentd"])


def _lock(state: Path) -> int:
    """Hold the state directory for this process."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state / "agentd.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _flock(lock)
    except BlockingIOError as error:
        raise AgentdError(f"{state}: another agentd runs on this state directory") from error
    except OSError as error:
        raise AgentdError(f"{state}: the state directory cannot be used: {error.strerror}") from error
    return lock


def _flock(lock: int) -> None:
    """Take the lock; `running` may hold it for an instant, so that one refusal is not the last word."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return
