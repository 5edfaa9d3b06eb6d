"""The threads that serve one configuration: a poller a distinct query, a worker a configured handler.

It starts and ends them; a reload of the configuration ends one crew and starts another.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Collection, Iterable

from agentd.apply.commit import Committer
from agentd.apply.dispatcher import Count, Dispatcher, routes
from agentd.apply.founding import Founding
from agentd.apply.sources import Sources
from agentd.apply.worker import Worker
from agentd.config import Config, ConfiguredHandler, Loaded
from agentd.report.heartbeat import Heartbeats
from agentd.watch.client import ConsulClient
from agentd.watch.keys import key_reader
from agentd.watch.poller import Poller, PollerStatus
from agentd.watch.queries import Snapshot


class Crew:
    """Pollers, workers and the dispatcher between them. `start`, then `drain`."""

    def __init__(self, loaded: Loaded, committer: Committer, heartbeats: Heartbeats, count: Count) -> None:
        self.loaded = loaded
        self._committer = committer
        self._heartbeats = heartbeats
        self._provers = provers(loaded.handlers)
        self._sources = sources(loaded.config)
        self._workers = {handler.name: self._worker(handler) for handler in loaded.handlers}
        self._dispatcher = Dispatcher(committer.journal, routes(loaded.handlers), wake=self.wake, count=count)
        self._pollers: dict[str, Poller] = {}
        self._founding = Founding(
            list(self._workers.values()),
            committer,
            provers=self._provers,
            heartbeat=heartbeats.register("founding"),
            done=lambda: heartbeats.forget("founding"),
        )

    def start(self) -> None:
        """Owe reconfigured handlers their states again, then start everybody."""
        for handler in self.loaded.handlers:
            queries = {str(on.query()) for on in handler.entry.on}
            self._committer.journal.reconfigured(handler.name, fingerprint(handler), queries)
        self._sources.sweep()
        if not self._provers:  # nobody is left who could: what waits for a proof would wait for ever
            self._committer.prove(self._committer.tree.current)
        for worker in self._workers.values():
            worker.start()
        self._founding.start()
        options = self.loaded.config.consul
        for query in {on.query() for handler in self.loaded.handlers for on in handler.entry.on}:
            poller = Poller(
                query,
                lambda: ConsulClient(options),
                self._deliver,
                stop=threading.Event(),
                heartbeat=self._heartbeats.register(f"poll {query}"),
            )
            self._pollers[str(query)] = poller
            poller.start()

    def wake(self, names: Collection[str]) -> None:
        """Let these handlers look into the journal."""
        for name in names:
            if name in self._workers:
                self._workers[name].wake()

    @property
    def provers(self) -> tuple[str, ...]:
        """The configured handlers that prove a generation live."""
        return self._provers

    def not_ready(self) -> list[str]:
        """The handlers whose initial files are not committed yet."""
        return [name for name, worker in self._workers.items() if not worker.ready.is_set()]

    def polls(self) -> list[PollerStatus]:
        """What the pollers have to say."""
        return [poller.status for poller in self._pollers.values()]

    def leave(self) -> None:
        """Take no more changes: the pollers are told to end and not waited for."""
        for name, poller in self._pollers.items():
            poller.close()
            self._heartbeats.forget(f"poll {name}")

    def drain(self, seconds: float) -> list[str]:
        """End the pollers, finish what waits, end the workers.

        Those that others notify end last. After `seconds` whoever still works is told to stop; what was not
        finished stays owed in the journal.

        Returns:
            The handlers that had to be left behind, still inside a call.
        """
        deadline = time.monotonic() + seconds
        self.leave()
        self._founding.stop(seconds)
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
        return left

    def _deliver(self, snapshot: Snapshot) -> None:
        self._dispatcher.deliver(snapshot)

    def _worker(self, handler: ConfiguredHandler) -> Worker:
        return Worker(
            handler,
            committer=self._committer,
            nginx=self.loaded.config.nginx,
            provers=self._provers,
            heartbeat=self._heartbeats.register(f"handler {handler.name}"),
            sources=self._sources,
        )


def sources(config: Config) -> Sources:
    """What this configuration lets its handlers fetch."""
    return Sources(config.sources, config.state / "fetched", key_reader(config.consul))


def provers(handlers: Iterable[ConfiguredHandler]) -> tuple[str, ...]:
    """The names of the handlers that prove a generation live."""
    return tuple(handler.name for handler in handlers if handler.type.proves)


def fingerprint(handler: ConfiguredHandler) -> str:
    """Equal while nothing of the handler's configuration changes."""
    text = f"{handler.type.__module__}:{handler.type.__qualname__} {handler.entry.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _join(workers: Iterable[Worker], deadline: float) -> list[str]:
    return [worker.name for worker in workers if not worker.join(max(0.0, deadline - time.monotonic()))]
