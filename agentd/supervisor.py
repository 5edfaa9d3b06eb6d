"""The threads that serve one configuration: one poller per distinct query, one worker per configured handler.

A supervisor starts and ends them. When the configuration is reloaded, another one takes its place.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from agentd.accounts import Accounts
from agentd.apply.attempts import Attempts
from agentd.apply.commit import EVENTS, Committer
from agentd.apply.convergence import Convergence
from agentd.apply.dispatcher import Dispatcher, routes
from agentd.apply.first_commit import FirstCommit
from agentd.apply.worker import Worker
from agentd.config.load import Config, ConfiguredHandler, Loaded, OnEvent
from agentd.errors import JournalError
from agentd.handler import Handler
from agentd.heartbeat import Heartbeats
from agentd.journal.drift import Drifts
from agentd.journal.entry import RELAY
from agentd.journal.memberships import Memberships
from agentd.journal.pauses import Paused, Pauses
from agentd.journal.payloads import finish, forget, forget_replaced
from agentd.journal.summary import summary
from agentd.nginx.inputs import Inputs, inputs
from agentd.nginx.presence import Presence
from agentd.sources.fetcher import Sources
from agentd.watch.changes import Event
from agentd.watch.client import ConsulClient
from agentd.watch.event_ring import EventRing
from agentd.watch.lookup import key_reader
from agentd.watch.poller import Poller, PollerStatus
from agentd.watch.query import Snapshot

if TYPE_CHECKING:
    from agentd.fleet.departure import Departure
    from agentd.fleet.fleet import Fleet
    from agentd.fleet.gate import Gate
    from agentd.fleet.reading import Reading
    from agentd.journal.followed import Given

_GIVE_WAY: Final = 0.02
"""Seconds, at most, for which a thread leaves the interpreter to the worker that it woke; 2 ms is usual."""
_FORGET_REPLACED: Final = 10.0
"""Seconds between two looks for secrets that a newer message has replaced."""
_READING: Final = 5.0
"""Seconds that reading the whole fleet may take."""
_SETTLE: Final = 5.0
"""Seconds, at most, for which a proof waits for the handlers that look before it."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the fleet's acknowledgement needs from the daemon as a whole.

    Attributes:
        version: agentd's version.
        damage: returns what is wrong with the tree; "" if nothing is.
        status: returns the URL of the HTTP endpoints, without a path; None if there are none.
    """

    version: str
    damage: Callable[[], str]
    status: Callable[[], str | None]


class Supervisor:
    """Pollers, workers and the dispatcher between them. `start`, then `drain`."""

    def __init__(self, loaded: Loaded, committer: Committer, heartbeats: Heartbeats, daemon: Daemon) -> None:
        self.loaded = loaded
        self._daemon = daemon
        self._accounts = Accounts(self.changed) if loaded.config.fleet else None
        self._committer = committer
        committer.joint = loaded.joint
        self._heartbeats = heartbeats
        self._provers = provers(loaded.handlers)
        nginx = loaded.config.nginx
        self._presence = Presence(nginx) if nginx and self._provers else None
        self._sources = sources(loaded.config)
        self._pauses = Pauses(loaded.config.state)
        self._gate = _gate(loaded)
        self._workers = {handler.name: self._worker(handler) for handler in loaded.handlers}
        fleet = loaded.config.fleet
        self._dispatcher = Dispatcher(
            committer.journal,
            routes(loaded.handlers),
            observer=committer.observer,
            relays=fleet is not None and fleet.relay,
            signed=self._gate.must_be_signed if self._gate else lambda _: False,
            refuses=self._refuses,
        )
        self._fleet = self._new_fleet()
        self._departure: Departure | None = None
        self._pollers: dict[str, Poller] = {}
        self._forget_at: dict[str, float] = {}
        self._forget_replaced_at = 0.0
        self._secret_logs = list(_secret_logs(loaded.handlers))
        self._first_commit = FirstCommit(
            list(self._workers.values()),
            committer,
            provers=self._provers,
            heartbeat=heartbeats.register("first commit"),
            done=lambda: heartbeats.forget("first commit"),
            give_again=self._give_again,
        )

    def start(self) -> None:
        """Queue the current states for reconfigured handlers again, then start every thread.

        Raises:
            JournalError, TreeError: before any thread was started; try again later.
        """
        self.forget_payloads()
        for handler in self.loaded.handlers:
            queries = {str(on.query()) for on in handler.entry.on}
            self._committer.journal.reconfigured(handler.name, fingerprint(handler), queries)
        self._committer.journal.resume()
        if self._fleet:
            self._fleet.join()
        self._dispatcher.release()
        self._sources.sweep()
        verifying = [one.name for one in self.loaded.handlers if one.type.verify is not Handler.verify]
        self._committer.release(verifying)
        Drifts(self._committer.journal).keep_only(verifying)
        if not self._provers:  # without a handler that proves, what waits for a proof would wait forever
            self._committer.prove(self._committer.tree.current)
        ring = EventRing.restored(self._committer.journal.seen(EVENTS))
        for worker in self._workers.values():
            worker.start()
        self._first_commit.start()
        options = self.loaded.config.consul
        joint = {on.query() for one in self.loaded.handlers if one.type.joint for on in one.entry.on}
        for query in {on.query() for handler in self.loaded.handlers for on in handler.entry.on}:
            poller = Poller(
                query,
                lambda: ConsulClient(options),
                self._deliver,
                stop=threading.Event(),
                heartbeat=self._heartbeats.register(f"poll {query}"),
                ring=ring,
                proves_absence=query in joint,
            )
            self._pollers[str(query)] = poller
            poller.start()
        if self._fleet:
            self._fleet.start()
        else:
            self._leave_fleets()

    def forget_payloads(self) -> None:
        """Wipe the payloads that their handlers do not let the journal keep any longer.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        finish(self._committer.journal)
        now = time.monotonic()
        for name, worker in self._workers.items():
            life = worker.payload_life
            if life is not None and now >= self._forget_at.get(name, 0.0):
                self._forget_at[name] = now + min(60.0, max(1.0, life / 10))
                forget(self._committer.journal, name, life)
        if now >= self._forget_replaced_at:
            self._forget_replaced_at = now + _FORGET_REPLACED
            for name, log in self._secret_logs:
                forget_replaced(self._committer.journal, name, log)

    def wake(self, names: Collection[str]) -> None:
        """Have these handlers look into the journal, and give way to them until they are at work."""
        if self._fleet and RELAY in names:
            self._fleet.wake()
        woken = [self._workers[name] for name in names if name in self._workers]
        for worker in woken:
            worker.wake()
        deadline = time.monotonic() + _GIVE_WAY
        for worker in woken:
            worker.wait_until_entered(deadline)

    def settle(self, names: Sequence[str]) -> list[str]:
        """Have these handlers do now what they can, timed work included. Returns those that are too slow."""
        asked = {name: self._workers[name].settle() for name in names if name in self._workers}
        deadline = time.monotonic() + _SETTLE
        return [name for name, done in asked.items() if not done.wait(max(0.0, deadline - time.monotonic()))]

    @property
    def provers(self) -> tuple[str, ...]:
        """The configured handlers that prove a generation live."""
        return self._provers

    def nginx_masterless(self) -> str:
        """Why nobody could reload nginx; "" if a master runs, or none is needed."""
        return self._presence.masterless() if self._presence else ""

    def _nginx_down(self) -> str:
        """Why nobody serves the tree; "" if nginx does, or need not."""
        return self._presence.down() if self._presence else ""

    def not_ready(self) -> dict[str, str]:
        """The handlers whose first files are not committed yet, each with the reason if one is known."""
        reasons = self._first_commit.reasons
        return {name: reasons.get(name, "") for name, one in self._workers.items() if not one.ready.is_set()}

    def joining(self) -> list[str]:
        """What of the fleet's log nginx should not start without, and is not in force yet, one sentence each.

        Raises:
            JournalError: the journal cannot be read.
        """
        return [
            f"{one.name}: the log of {name} is not read and applied yet"
            for one in self.loaded.handlers
            if self._fleet and one.type.secret_payload
            for name in self._fleet.unread(one.name)
        ]

    def handlers(self) -> dict[str, dict[str, Any]]:
        """The condition of each handler, of JSON's types: as in the journal, and as it runs.

        Raises:
            JournalError: the journal cannot be read.
        """
        queries = {one.name: one.entry.sources for one in self.loaded.handlers}
        told = summary(self._committer.journal, self._workers, queries)
        return {
            name: told[name]
            | {
                "ready": worker.ready.is_set(),
                "next_due": worker.next_due,
                "timer_trouble": worker.timer_trouble,
                "paused": asdict(worker.paused) if worker.paused else None,
            }
            for name, worker in self._workers.items()
        }

    def _pause_of(self, handler: str) -> Paused | None:
        """Why a handler takes nothing new, as its worker knows; None if it does."""
        return self._workers[handler].paused if handler in self._workers else None

    def polls(self) -> list[PollerStatus]:
        """The state of each poller."""
        fleet = self._fleet.polls() if self._fleet else []
        return [*(poller.status for poller in self._pollers.values()), *fleet]

    def fleet(self) -> dict[str, Any] | None:
        """The state of the fleet's threads, as JSON types; None without a fleet."""
        return self._fleet.status() if self._fleet else None

    def read_fleet(self) -> Reading | None:
        """Read the whole fleet from Consul; None without one.

        Raises:
            ConsulUnavailable, ConsulRefused: it cannot be read.
        """
        config = self.loaded.config
        if config.fleet is None or self._gate is None:
            return None
        from agentd.fleet.reading import read_once  # noqa: PLC0415 (only if somebody looks)

        return read_once(config.consul, config.fleet, self._gate.admit, _READING)

    def changed(self) -> None:
        """Check soon whether there is something new to acknowledge; does not wait."""
        if self._fleet:
            self._fleet.changed()

    def stop_polling(self) -> None:
        """Take no more changes: tell the pollers to end, without waiting for them."""
        for name, poller in self._pollers.items():
            poller.close()
            self._heartbeats.forget(f"poll {name}")
        if self._fleet:
            self._fleet.close()

    def drain(self, seconds: float, *, reload: bool = False) -> list[str]:
        """End the pollers, finish what is waiting, end the workers.

        Handlers that others notify end last. Workers that are still busy after `seconds` must stop; what they
        did not finish stays in the journal. The acknowledgement then says that agentd was stopped, unless
        this is a reload, after which the node stays in the fleet or leaves it.

        Returns:
            The handlers that are still inside a call.
        """
        deadline = time.monotonic() + seconds
        self.stop_polling()
        self._first_commit.stop(seconds)
        told = {name for handler in self.loaded.handlers for name in handler.entry.notify}
        for group in (self._workers.keys() - told, told & self._workers.keys()):
            for name in group:
                self._workers[name].drain()
            _join([self._workers[name] for name in group], deadline)
        for worker in self._workers.values():
            worker.stop()
        left = _join(self._workers.values(), time.monotonic() + 3.0)
        for name in self._workers:
            self._heartbeats.forget(f"handler {name}")
        if self._fleet:
            self._fleet.leave(farewell=not reload)
        if self._departure:
            self._departure.close()
        return left

    def _leave_fleets(self) -> None:
        """Remove what this node left in Consul when it had a fleet."""
        with suppress(JournalError):  # the next start tries again
            if Memberships(self._committer.journal).every():
                from agentd.fleet.departure import Departure  # noqa: PLC0415 (only where there is something)

                self._departure = Departure(self._committer.journal, self.loaded.config.consul)
                self._departure.start(None)

    def _deliver(self, snapshot: Snapshot) -> None:
        self._dispatcher.deliver(snapshot)
        self._committer.trim()

    def _new_fleet(self) -> Fleet | None:
        """The fleet's threads; their modules are imported only if a fleet is configured."""
        config = self.loaded.config
        if config.fleet is None or self._gate is None:
            return None
        from agentd.fleet.condition import Inspector  # noqa: PLC0415 (as said)
        from agentd.fleet.fleet import Fleet, kept_names  # noqa: PLC0415 (as said)

        inspector = Inspector(
            self.loaded.handlers,
            self._committer.journal,
            self._accounts or Accounts(self.changed),
            lambda: self._committer.tree.current,
            self._daemon.damage,
            self._nginx_down,
        )
        return Fleet(
            config.fleet,
            config.consul,
            kept_names(self.loaded.handlers),
            journal=self._committer.journal,
            heartbeats=self._heartbeats,
            state=config.state,
            gate=self._gate,
            given=self._given,
            refused=self._committer.observer.disbelieved,
            takers=self._dispatcher.takers,
            look=inspector.look,
            version=self._daemon.version,
            status=self._daemon.status,
            pause_of=self._pause_of,
        )

    def _recall(self, handler: str) -> tuple[Sequence[Event], bool]:
        return self._fleet.recall(handler) if self._fleet else ((), False)

    def _give_again(self, handler: str) -> None:
        if self._fleet:
            self._fleet.give_again(handler)

    def _refuses(self, event: Event, kept: bool) -> str:  # noqa: FBT001 (as the dispatcher calls it)
        return self._gate.refuses(event, kept=kept) if self._gate else ""

    def _given(self, given: Given) -> None:
        """Wake the handlers for which messages of the log were queued."""
        for ending in given.endings:
            self._committer.observer.ended(ending)
        self._committer.observer.notified(sorted({name for _, names in given.queued for name in names}))
        self._committer.trim()

    def _worker(self, handler: ConfiguredHandler) -> Worker:
        attempts = Attempts(
            handler,
            committer=self._committer,
            nginx=self.loaded.config.nginx,
            provers=self._provers,
            heartbeat=self._heartbeats.register(f"handler {handler.name}"),
            sources=self._sources,
            told_by=[
                one.name
                for one in self.loaded.handlers
                if one.type.proves and handler.name in one.entry.notify
            ],
            verifiers=[
                one.name
                for one in self.loaded.handlers
                if one.name in handler.entry.notify
                and one.type.verify is not Handler.verify
                and not one.type.proves
            ],
            settle=self.settle,
            accounts=self._accounts,
            mend=self.loaded.config.drift == "mend",
            opened=self._gate.opened if self._gate else lambda event: event,
            recall=lambda: self._recall(handler.name),
        )
        states = {str(on.query()) for on in handler.entry.on if not isinstance(on, OnEvent)}
        return Worker(
            attempts,
            Convergence(attempts, sorted(states), self._inputs),
            # Without anything that it takes, there is nothing to hold back.
            partial(self._pauses.of, handler.name) if handler.entry.on else lambda: None,
        )

    def _inputs(self) -> Inputs:
        """What nginx reads beside the tree, at this moment."""
        config = self.loaded.config
        return inputs(config.nginx.conf.parent, config.tree.path) if config.nginx else Inputs("", 0.0)


def _gate(loaded: Loaded) -> Gate | None:
    """What this node believes of its fleet; None without one."""
    if loaded.config.fleet is None:
        return None
    from agentd.fleet.gate import Gate  # noqa: PLC0415 (only where there is a fleet)

    return Gate(loaded.config.trust, loaded.fleet_keys)


def sources(config: Config) -> Sources:
    """What this configuration allows its handlers to fetch."""
    return Sources(config.sources, config.state / "fetched", key_reader(config.consul))


def _secret_logs(handlers: Iterable[ConfiguredHandler]) -> Iterator[tuple[str, str]]:
    """Handlers, and names whose messages are secret and replace those before."""
    for handler in handlers:
        for on in handler.entry.on:
            if isinstance(on, OnEvent) and on.keep == "latest" and handler.type.secret_payload:
                yield handler.name, on.event


def provers(handlers: Iterable[ConfiguredHandler]) -> tuple[str, ...]:
    """The names of the handlers that prove a generation live."""
    return tuple(handler.name for handler in handlers if handler.type.proves)


def fingerprint(handler: ConfiguredHandler) -> str:
    """The same for as long as the handler's configuration is the same, and the files that it names."""
    text = f"{handler.type.__module__}:{handler.type.__qualname__} {handler.entry.model_dump_json()}"
    if handler.type.inputs is not Handler.inputs:
        text += _inputs_of(handler)
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs_of(handler: ConfiguredHandler) -> str:
    """What the handler says of its inputs, or how it failed to say it: another failure is another input."""
    try:
        return str(handler.build().inputs)
    except Exception as error:  # noqa: BLE001 (a bug in one handler must not hold up the others)
        _log.exception("handler.inputs_unknown", handler=handler.name)
        return f"{type(error).__name__}: {error}"


def _join(workers: Iterable[Worker], deadline: float) -> list[str]:
    return [worker.name for worker in workers if not worker.join(max(0.0, deadline - time.monotonic()))]
