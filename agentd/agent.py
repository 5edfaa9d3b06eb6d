"""The daemon's life: start, reload on SIGHUP, drain on SIGTERM. It runs in the main thread.

A signal handler only puts a word into a queue, which the main loop reads. Between signals the loop feeds the
watchdog and calls `upkeep` for the tree and the journal. Nothing that Consul does can end it.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from agentd import __version__
from agentd.apply.commit import Committer
from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.config.fleet_keys import with_fleet_keys
from agentd.config.load import Config, Loaded, OnEvent, load
from agentd.configured_tree import open_tree
from agentd.errors import (
    AgentdError,
    ConfigError,
    DamagedError,
    FormatError,
    JournalError,
    TakenError,
    TreeError,
)
from agentd.heartbeat import Heartbeats
from agentd.journal.history import Wanted, history
from agentd.journal.journal import Journal
from agentd.report import log
from agentd.report.gauges import Condition
from agentd.report.reporter import Reporter
from agentd.report.status import Status
from agentd.report.systemd import Notifier, Watchdog
from agentd.supervisor import Daemon, Supervisor
from agentd.times import timestamp
from agentd.tree.claim import Claim
from agentd.upkeep import Upkeep

TICK: Final = 1.0
"""Seconds between two checks of the tree and the heartbeats."""
_READY_ANYWAY: Final = 5.0  # systemd starts nginx after us, and nginx may be what we are waiting for
_LOCK_PATIENCE: Final = 1.0
_RECENT: Final = 20  # changes on the page of the node
_FIXED: Final = ("state", "tree", "nginx", "status")
_log = structlog.get_logger()


def run(loaded: Loaded) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status.

    Raises:
        AgentdError: it cannot start: another daemon is running, or the state directory or the port cannot be
            used.
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
        who = f"pid {os.getpid()}, state {config.state}, tree {config.tree.path}"
        self._claims = (
            Claim(
                config.state, who, what="state directory", setting="state", name="agentd.lock", mode=0o700,
                patience=_LOCK_PATIENCE,
            ),
            Claim(config.tree.path, who),
            *_secret_claim(config, who),
        )  # fmt: skip
        self._heartbeats = Heartbeats()
        self._watchdog = Watchdog(self._notifier, self._heartbeats)
        self._supervisor: Supervisor | None = None
        self._journal = Journal(config.state / "journal.db", opened=False)
        self._reporter = Reporter(
            lambda: self._supervisor.polls() if self._supervisor else [],
            self._journal,
            self._wake,
            self._behind_since,
            lambda: self._supervisor.fleet() if self._supervisor else None,
            condition=self._condition,
            changed=self._changed,
        )
        tree = open_tree(config, self._reporter.checked)
        self._committer = Committer(tree, self._journal, observer=self._reporter, joint=self._loaded.joint)
        self._server = Status(
            config.status,
            self._heartbeats,
            self._reporter,
            not_ready=self._not_ready,
            behind=self._behind,
            limited=self._limited,
            snapshot=self._status,
            recent=self._recent,
            reading=lambda: self._supervisor.read_fleet() if self._supervisor else None,
        )
        with suppress(TreeError, JournalError):  # `_recover` waits until it can be
            self._open()
        self._backoff = Backoff(0.5, 10.0)
        self._waits_for = ""  # what keeps it from starting
        self._upkeep = Upkeep(self._committer, self._journal, self._notifier.status)
        self._unusable = ""  # why the last upkeep failed
        self._refused: tuple[str, ...] = ()  # what is wrong with the configuration file that was not reloaded

    def run(self) -> int:
        """The main loop."""
        began = time.monotonic()
        _log.info("agent.starting", version=__version__, config=str(self._loaded.path), pid=os.getpid())
        self._server.start()
        try:
            if self._recover(began):
                self._say_ready(began)
                while self._next() != "stop":
                    pass
        finally:
            self._stop()
        return 0

    # -- start

    def _open(self) -> None:
        """Claim the state directory and the tree, and open the journal; what is done already is skipped.

        Raises:
            TakenError: another daemon uses one of them.
            FormatError: another version of agentd wrote the journal.
            TreeError, JournalError: it cannot be done now; try again later.
        """
        for claim in self._claims:
            claim.take()
        if told := self._journal.database.open(mend=True):
            _log.error("journal.damaged", path=str(self._journal.path), damage=told)

    def _recover(self, began: float) -> bool:
        """Finish what a crash interrupted and begin, retrying until that works; False if it should stop.

        systemd starts nginx only after us. If nginx could serve the generation that is there, it does not
        have to wait; without one it could not start, and the trouble may be over soon.
        """
        attempt, said_ready = 0, False
        while True:
            try:
                self._open()
                self._committer.recover()
                _refuse_stores(self._loaded, self._journal)
                self._supervise(self._loaded)
            except (TreeError, JournalError) as error:
                attempt += 1
                self._waits_for = str(error)
                _log.error("agent.cannot_recover", error=str(error))
                self._notifier.status(f"waiting: {error}")
                waited = time.monotonic() - began
                if waited >= _READY_ANYWAY and not said_ready and self._servable():
                    said_ready = True
                    self._notifier.ready(f"nginx can start with what is there; waiting: {error}")
                wait = self._backoff.delay(attempt)
                if self._rest(wait if said_ready else min(wait, max(_READY_ANYWAY - waited, 1.0))) == "stop":
                    return False
            else:
                self._waits_for = ""
                return True

    def _rest(self, seconds: float) -> str | None:
        """Wait for a command, and feed the watchdog meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._watchdog.feed()
            if word := self._wait(min(left, TICK, self._watchdog.interval or TICK)):
                return word
        return None

    def _servable(self) -> bool:
        """Whether there is a sound generation, with which nginx can start."""
        tree = self._committer.tree
        try:
            return tree.current > 0 and tree.intact()
        except AgentdError:
            return False

    def _supervise(self, loaded: Loaded) -> None:
        self._loaded = loaded
        handlers = [handler.name for handler in loaded.handlers]
        triggers = [on for handler in loaded.handlers for on in handler.entry.on]
        events = {on.event for on in triggers if isinstance(on, OnEvent)}
        self._reporter.configure(handlers=handlers, events=events)
        self._journal.most = loaded.config.journal.max_size
        self._supervisor = Supervisor(
            loaded,
            self._committer,
            self._heartbeats,
            Daemon(__version__, lambda: self._upkeep.damage, lambda: self._server.url),
        )
        try:
            self._supervisor.start()
        except (TreeError, JournalError):  # then none of it runs
            self._supervisor = None
            raise
        for handler in handlers:
            self._reporter.publish_gauges(handler)

    def _say_ready(self, began: float) -> None:
        supervised = time.monotonic()
        while self._waits() and time.monotonic() - supervised < _READY_ANYWAY:
            if self._wait(0.01) == "stop":
                self.commands.put("stop")
                break
        waiting = self._waits()
        self._notifier.ready(f"waiting: {'; '.join(waiting)}" if waiting else "watching")
        _log.info("agent.ready", took=round(time.monotonic() - began, 3), waiting=waiting)

    def _waits(self) -> list[str]:
        """What nginx should not start without."""
        with suppress(JournalError):
            if not (waiting := self._not_ready()) and self._supervisor:
                return self._supervisor.joining()
            return waiting
        return []

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
        except (TakenError, DamagedError):
            raise
        except AgentdError as error:
            self._say_unusable(str(error))
        else:
            self._say_unusable("")
        return word

    def _say_unusable(self, why: str) -> None:
        if why and why != self._unusable:
            _log.error("agent.trouble", error=why)
        self._unusable = why

    def _look_after(self) -> None:
        """Keep the claims, the tree and the journal in order, and update the gauges."""
        for claim in self._claims:
            claim.take()
        self._upkeep.round(self._loaded.config, self._supervisor.provers if self._supervisor else ())
        if self._supervisor:
            self._supervisor.forget_payloads()
        self._reporter.generation(self._committer.tree.current)
        self._reporter.reload_pending(pending=bool(self._journal.unproved()))
        self._reporter.config_refused(refused=bool(self._refused))

    def _reload(self) -> None:
        """Reload the configuration file; a bad file changes nothing."""
        self._notifier.reloading("reloading")
        try:
            loaded = with_fleet_keys(load(self._loaded.path))
            _refuse_fixed(self._loaded, loaded)
            _refuse_stores(loaded, self._journal)
        except ConfigError as error:
            self._refused = tuple(error.problems)
            _log.error("config.refused", problems=error.problems)
            self._notifier.ready(f"the new configuration was refused: {error.problems[0]}")
            return
        self._refused = ()
        if self._supervisor:
            left = self._supervisor.drain(self._loaded.config.drain, reload=True)
            if left:
                _log.warning("handler.left_behind", handlers=left)
        self._log(loaded.config)
        try:
            self._supervise(loaded)
        except (TreeError, JournalError):
            if not self._recover(time.monotonic()):
                self.commands.put("stop")
                return
        _log.info("config.reloaded", handlers=[handler.name for handler in loaded.handlers])
        self._notifier.ready("watching")

    def _stop(self) -> None:
        self._notifier.stopping("draining")
        seconds = self._loaded.config.drain
        left = self._supervisor.drain(seconds) if self._supervisor else []
        backlog: dict[str, int] | None = None
        with suppress(JournalError):
            backlog = self._journal.backlog()
        _log.info("agent.stopped", backlog=backlog, left_behind=left)
        self._server.stop()
        self._journal.close()
        for claim in self._claims:
            claim.release()

    # -- what others call

    def _wake(self, names: Sequence[str]) -> None:
        if self._supervisor:
            self._supervisor.wake(names)

    def _changed(self) -> None:
        if self._supervisor:
            self._supervisor.changed()

    def _not_ready(self) -> list[str]:
        """Why the daemon is not ready; empty if it is."""
        if self._supervisor is None:
            return [self._waits_for or "the tree or the journal cannot be used yet"]
        damage, trouble = self._upkeep.damage, self._upkeep.trouble
        damaged = [f"the tree is damaged: {damage}"] if damage else []
        full = [trouble] if trouble else []
        unusable = [self._unusable] if self._unusable and not damaged and not full else []
        return (
            damaged
            + full
            + unusable
            + [
                f"the first files of {name} are not committed{f': {reason}' if reason else ''}"
                for name, reason in self._supervisor.not_ready().items()
            ]
        )

    def _behind(self) -> list[str]:
        """What is not in force, although the daemon is ready: one sentence each."""
        handlers = self._supervisor.handlers() if self._supervisor else {}
        refused = [f"the configuration was refused at the last reload: {one}" for one in self._refused[:1]]
        files = [self._server.trouble] if self._server.trouble else []
        return (
            refused
            + files
            + self._fleet_troubles()
            + [
                f"{name}: since {timestamp(one['behind']['since'])}: {one['behind']['reason']}"
                for name, one in handlers.items()
                if one["behind"]
            ]
        )

    def _fleet_troubles(self) -> list[str]:
        """What of the fleet's log does not reach this node."""
        fleet = self._supervisor.fleet() if self._supervisor else None
        return [f"fleet: {one}" for one in fleet["troubles"]] if fleet else []

    def _limited(self) -> list[str]:
        """Which queries Consul wants to be asked later."""
        polls = self._supervisor.polls() if self._supervisor else []
        return [f"query {one.query} is limited: {one.limited}" for one in polls if one.limited]

    def _condition(self) -> Condition:
        """What the daemon says of itself, for the metrics."""
        missing = self._supervisor.nginx_masterless() if self._supervisor else ""
        return Condition(not self._not_ready(), len(self._heartbeats.stale()), bool(missing))

    def _behind_since(self) -> dict[str, float | None]:
        try:
            handlers = self._supervisor.handlers() if self._supervisor else {}
        except JournalError:  # told by the main loop; the other metrics are needed all the more
            return {}
        return {name: one["behind"]["since"] if one["behind"] else None for name, one in handlers.items()}

    def _status(self) -> dict[str, Any]:
        supervisor, known = self._supervisor, self._journal.database.is_open
        fleet = supervisor.fleet() if supervisor else None
        return {
            "version": __version__,
            "pid": os.getpid(),
            "now": unix_time(),
            "config": str(self._loaded.path),
            "generation": self._committer.tree.current,
            "reload_pending": self._journal.unproved() if known else [],
            "backlog": self._journal.backlog() if known else {},
            "not_ready": self._not_ready(),
            "config_refused": self._refused,
            "files_refused": self._server.trouble,
            "nginx_missing": supervisor.nginx_masterless() if supervisor else "",
            "handlers": supervisor.handlers() if supervisor else {},
            "stuck": self._heartbeats.stale(),
            "queries": [
                {name: getattr(status, name) for name in status.__dataclass_fields__}
                for status in (supervisor.polls() if supervisor else [])
            ],
        } | ({"fleet": fleet} if fleet else {})

    def _recent(self) -> list[dict[str, Any]]:
        """The newest changes, and what became of them; not each look at a feed that found nothing new."""
        wanted = Wanted(idle=False)
        return history(self._journal, wanted, limit=_RECENT) if self._journal.database.is_open else []

    @staticmethod
    def _log(config: Config) -> None:
        form = config.log.format
        log.configure(config.log.level, json=None if form == "auto" else form == "json")


def _secret_claim(config: Config, who: str) -> Iterator[Claim]:
    if directory := config.tree.secrets:
        yield Claim(
            directory,
            who,
            what="directory of secrets",
            setting="tree.secrets",
            name=".agentd.lock",
            mode=0o700,
        )


def _refuse_fixed(old: Loaded, new: Loaded) -> None:
    changed = [name for name in _FIXED if getattr(old.config, name) != getattr(new.config, name)]
    if changed:
        raise ConfigError([f"{new.path}: {', '.join(changed)}: changed, which needs a restart of agentd"])


def _refuse_stores(loaded: Loaded, journal: Journal) -> None:
    problems = []
    for handler in loaded.handlers:
        try:
            journal.store(handler.name, handler.type.store_format)
        except FormatError as error:
            problems.append(f"{loaded.path}: handlers.{handler.name}: {error}")
    if problems:
        raise ConfigError(problems)
