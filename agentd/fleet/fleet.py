"""What one configuration does for its fleet: owns the threads that follow the log, and their state.

Imported only where there is a section `fleet:`. It applies nothing: messages go into the journal, and whoever
started it wakes their handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.fleet.follower import Follower, Kept, NameStatus
from agentd.fleet.heads_poll import HeadsPoll
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.local_agent import LocalAgent
from agentd.fleet.options import FleetOptions
from agentd.fleet.reader import Reader
from agentd.fleet.target import Services, services_of
from agentd.heartbeat import Heartbeats
from agentd.journal.followed import Followed, Given
from agentd.journal.journal import Journal
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import PollerStatus

_FOLLOW: Final = "fleet follow"
_POLL: Final = "poll fleet"


class Fleet:
    """The fleet's threads of one configuration: `join`, then `start`, then `close`.

    Args:
        options: of the section `fleet:`.
        consul: where Consul is.
        kept: the names that are kept.
        journal: of this node.
        heartbeats: where the threads register.
        given: learns what was queued.
    """

    def __init__(
        self,
        options: FleetOptions,
        consul: ConsulOptions,
        kept: Sequence[Kept],
        *,
        journal: Journal,
        heartbeats: Heartbeats,
        given: Callable[[Given], None],
    ) -> None:
        self._options = options
        self._journal = journal
        self._heartbeats = heartbeats
        self._home = consul.model_copy(update={"datacenter": options.datacenter or consul.datacenter})
        self._agent = LocalAgent(lambda: ConsulClient(consul), options.node)
        self._keys = Keys(options.name)
        self._follower = self._new_follower(kept, given) if kept else None

    def _new_follower(self, kept: Sequence[Kept], given: Callable[[Given], None]) -> Follower:
        return Follower(
            kept,
            self._keys,
            self._agent.node,
            self._journal,
            lambda: _Library(ConsulClient(self._home), self._keys),
            lambda came: HeadsPoll(
                self._keys.names, self._home, came, self._agent.members, self._heartbeats.register(_POLL)
            ),
            given=given,
            heartbeat=self._heartbeats.register(_FOLLOW),
        )

    def join(self) -> None:
        """Record that the handlers follow their names, from now on if they did not.

        Raises:
            JournalError: it cannot be recorded.
        """
        Followed(self._journal).belong_to(f"{self._options.name}@{self._home.datacenter or ''}")
        if self._follower:
            self._follower.join_log()

    def start(self) -> None:
        """Start the threads."""
        if self._follower:
            self._follower.start()

    def close(self) -> None:
        """Take no more messages: tell the threads to end, without waiting for them."""
        if self._follower:
            self._follower.close()
        for name in (_FOLLOW, _POLL):
            self._heartbeats.forget(name)

    def wake(self) -> None:
        """An event of a kept name was heard."""

    def polls(self) -> list[PollerStatus]:
        """The state of the fleet's blocking query."""
        return [self._follower.poll] if self._follower else []

    def status(self) -> dict[str, Any]:
        """The state, of JSON's types."""
        follower = self._follower
        trouble = follower.trouble if follower else ""
        names = follower.status if follower else {}
        return {
            "name": self._options.name,
            "node": self._agent.known_node,
            "names": {name: asdict(one) for name, one in names.items()},
            "troubles": _troubles(trouble, names),
        }


class _Library:
    """The log in Consul, over one client."""

    def __init__(self, client: ConsulClient, keys: Keys) -> None:
        self.reader = Reader(ConsulKV(client), keys)
        self._client = client

    def services(self) -> Services:
        """See `Library`."""
        return services_of(self._client.agent.services())

    def close(self) -> None:
        """See `Library`."""
        self._client.close()


def kept_names(handlers: Sequence[ConfiguredHandler]) -> list[Kept]:
    """The names that are kept, each with the handlers that take it."""
    latest: dict[str, bool] = {}
    takers: dict[str, dict[str, bool]] = {}
    for handler in handlers:
        for on in handler.entry.on:
            if isinstance(on, OnEvent) and on.keep:
                latest[on.event] = on.keep == "latest"
                takers.setdefault(on.event, {})[handler.name] = handler.type.runs_once
    return [Kept(name, latest[name], takers[name]) for name in takers]


def _troubles(trouble: str, names: Mapping[str, NameStatus]) -> list[str]:
    """What is not as it should be, one sentence each."""
    found = [f"the log is not followed: {trouble}"] if trouble else []
    for name, one in names.items():
        if one.waits:
            found.append(f"the log of {name} waits: {one.waits}")
        if one.incomplete_since is not None:
            found.append(
                f"{name} is incomplete since message {one.incomplete_since}, as this node was away for longer"
                f" than the log reaches: publish a snapshot (`agentd publish {name} --snapshot`)"
            )
    return found
