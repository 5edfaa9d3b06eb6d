"""The part of one configuration that deals with the fleet: owns the fleet's threads and their state.

Imported only if the configuration has a section `fleet:`. Applies nothing itself: messages go into the
journal, and the owner of the `Fleet` wakes their handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from agentd.clock import unix_time
from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.errors import JournalError
from agentd.fleet.acknowledger import Acknowledger, Acknowledging
from agentd.fleet.condition import Condition
from agentd.fleet.departure import Departure
from agentd.fleet.followed_freeze import FollowedFreeze
from agentd.fleet.follower import Follower, read_prefixes
from agentd.fleet.gate import Gate
from agentd.fleet.head import Keep
from agentd.fleet.heads_poll import HeadsPoll
from agentd.fleet.hindrance import hindered
from agentd.fleet.holder import Holder
from agentd.fleet.kept_name import Kept, NameStatus
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV, LateKV
from agentd.fleet.local_agent import LocalAgent
from agentd.fleet.log import Log
from agentd.fleet.memory import FILE, Memory
from agentd.fleet.options import FleetOptions
from agentd.fleet.pace import Pace
from agentd.fleet.reader import Reader
from agentd.fleet.recall import Recall
from agentd.fleet.relay import PATIENCE, Relay, RelayStatus
from agentd.fleet.rights import missing_rules, rule
from agentd.fleet.target import Services, services_of
from agentd.heartbeat import Heartbeats
from agentd.journal.followed import Followed, Given
from agentd.journal.journal import Journal
from agentd.journal.memberships import Membership, Memberships
from agentd.journal.numbers import Numbers
from agentd.journal.pauses import Paused
from agentd.trust.pattern import fits
from agentd.watch.changes import Event
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import PollerStatus

_FOLLOW: Final = "fleet follow"
_POLL: Final = "poll fleet"
_RELAY: Final = "fleet relay"
_ACKNOWLEDGE: Final = "fleet acknowledge"
_PATIENCE: Final = 2.0  # seconds for which a stop waits for each thread

_log = structlog.get_logger()


class Fleet:
    """The fleet's threads for one configuration. Call `join`, `start`, `close` and `leave`, in this order.

    Args:
        options: the section `fleet:`.
        consul: the section `consul:`.
        kept: the kept names.
        journal: this node's journal.
        heartbeats: where the threads register.
        state: the state directory.
        gate: what this node believes.
        given: called with what was queued.
        refused: called with the name and the reason of each message that is not believed.
        takers: returns the handlers for an event that is not kept.
        look: returns what this node has to acknowledge.
        version: agentd's version.
        status: returns the address and port of the daemon's HTTP endpoints; None if it has none.
        pause_of: returns the pause of a handler; None if it takes what comes.
    """

    def __init__(  # noqa: PLR0913 (all named at the one call)
        self,
        options: FleetOptions,
        consul: ConsulOptions,
        kept: Sequence[Kept],
        *,
        journal: Journal,
        heartbeats: Heartbeats,
        state: Path,
        gate: Gate,
        given: Callable[[Given], None],
        refused: Callable[[str, str], None],
        takers: Callable[[Event], Sequence[str]],
        look: Callable[[], Condition],
        version: str,
        status: Callable[[], str | None],
        pause_of: Callable[[str], Paused | None] = lambda _handler: None,
    ) -> None:
        self._options = options
        self._journal = journal
        self._heartbeats = heartbeats
        self._home = consul.at(options.datacenter or consul.datacenter)
        self._kept = {one.name: one for one in kept}
        self._file = state / FILE
        self._gate = gate
        self._given = given
        self._refused = refused
        self._takers = takers
        self._pause_of = pause_of
        self._keys = Keys(options.name)
        self._agent = LocalAgent(lambda: ConsulClient(consul), options.node)
        self._freeze = FollowedFreeze(
            gate, is_urgent=self._is_urgent, refused=refused, changed=self._refrozen, clock=unix_time
        )
        self._memory: Memory | None = None
        self._relay: Relay | None = None
        self._follower: Follower | None = None
        self._holder: Holder | None = None
        self._acknowledger = Acknowledger(
            options,
            connect=lambda: ConsulClient(self._home),
            look=lambda: self._hindered(look()),
            heartbeat=heartbeats.register(_ACKNOWLEDGE),
            version=version,
            status=status,
            joined=self._joined,
        )
        self._departure = Departure(journal, consul)

    def join(self) -> None:
        """Record that the handlers follow their names, from now on if they did not before.

        Raises:
            JournalError: it cannot be recorded.
        """
        fleet = f"{self._options.name}@{self._home.datacenter or ''}"
        Followed(self._journal).belong_to(fleet)
        if self._kept:
            memory = self._memory = Memory(self._file)
            with suppress(JournalError):  # the log can be followed without it; the holder reports it
                memory.belong_to(fleet)
                if held := memory.held(self._freeze.name):
                    self._freeze.recall(held.messages)
                for name in set(memory.names()) - self._kept.keys() - {self._freeze.name}:
                    memory.drop(name)
            if memory.trouble:
                _log.warning("fleet.memory_damaged", damage=memory.trouble)
            self._relay = self._new_relay(memory) if self._options.relay else None
            self._holder = Holder(memory, self._relay)
            self._follower = self._new_follower(self._holder)
            self._follower.join_log()

    def _new_follower(self, holder: Holder) -> Follower:
        return Follower(
            list(self._kept.values()),
            self._keys,
            self._agent.node,
            self._journal,
            lambda: _Library(ConsulClient(self._home), self._keys),
            lambda came: HeadsPoll(
                self._keys.names, self._home, came, self._agent.members, self._heartbeats.register(_POLL)
            ),
            gate=self._gate,
            freeze=self._freeze,
            given=self._given,
            refused=self._refused,
            witness=holder,
            heartbeat=self._heartbeats.register(_FOLLOW),
        )

    def _new_relay(self, memory: Memory) -> Relay:
        written = (*read_prefixes(self._keys), f"{self._keys.root}pruned/")
        keep: dict[str, Keep] = {self._freeze.name: "latest"}
        keep |= {one.name: "latest" if one.latest else "all" for one in self._kept.values()}
        return Relay(
            self._journal,
            Log(
                LateKV(lambda: ConsulClient(self._home.impatient(PATIENCE))),
                self._keys,
                believes=self._gate.believes if self._gate.judges else None,
            ),
            memory,
            self._give_provisionally,
            keep=keep,
            node=self._agent.name,
            pace=Pace(self._agent.members),
            rules=" ".join(rule("write", prefix) for prefix in written),
            holds=self._freeze.holds,
            heartbeat=self._heartbeats.register(_RELAY),
        )

    def recall(self, handler: str) -> tuple[list[Event], bool]:
        """See `Recall`."""
        if self._memory is None:
            return [], False
        return Recall(self._kept, self._memory, self._gate, self._journal)(handler)

    def give_again(self, handler: str) -> None:
        """See `Followed`; for the names of which only the newest message counts."""
        Followed(self._journal).give_again(handler, self._latest(handler))

    def unread(self, handler: str) -> list[str]:
        """The names of which nothing is in force for a handler, and that are still to be read, or handled."""
        names = set(self._latest(handler)) - Numbers(self._journal.database).committed(handler).keys()
        followed = Followed(self._journal)
        return [
            name
            for name in sorted(names)
            if self._follower
            and (not self._follower.was_read(name) or followed.waiting([handler], name) != (0, 0))
        ]

    def _latest(self, handler: str) -> list[str]:
        return [one.name for one in self._kept.values() if one.latest and handler in one.handlers]

    def start(self) -> None:
        """Start the threads."""
        if self._relay:
            self._relay.start()
        if self._follower:
            self._follower.start()
        self._acknowledger.start()

    def close(self) -> None:
        """Take no more messages: ask the threads to end, without waiting for them."""
        if self._follower:
            self._follower.close()
        if self._relay:
            self._relay.stop()
        for name in (_FOLLOW, _POLL, _RELAY):
            self._heartbeats.forget(name)

    def leave(self, *, farewell: bool) -> None:
        """Wait for the threads, but not for long; what they did not finish stays in the journal.

        With a farewell, this node's acknowledgement says that agentd was stopped.
        """
        self._acknowledger.stop(farewell=farewell)
        self._departure.close()
        self._heartbeats.forget(_ACKNOWLEDGE)
        ended = [one.join(_PATIENCE) for one in (self._follower, self._relay) if one]
        if self._memory and all(ended):
            self._memory.close()

    def _joined(self, home: str, node: str) -> None:
        """Record where and as which node this one acknowledges from now on, and leave every other fleet."""
        current = Membership(self._options.name, home, node)
        with suppress(JournalError):  # it acknowledges nevertheless
            Memberships(self._journal).add(current)
            self._departure.start(current)

    def _hindered(self, condition: Condition) -> Condition:
        known = self._follower.status if self._follower else {}
        return hindered(condition, self._kept, known, self._pause_of, self._freeze)

    def _is_urgent(self, name: str) -> bool:
        """Whether a freeze does not hold the name back."""
        urgent = self._options.urgent
        if urgent is None:
            return name in self._kept and self._kept[name].urgent
        return any(fits(name, pattern) for pattern in urgent)

    def _refrozen(self) -> None:
        """Let everybody know of another freeze or thaw who looks seldom otherwise."""
        self.changed()
        if self._relay:
            self._relay.wake()

    def changed(self) -> None:
        """Check soon whether there is something new to acknowledge."""
        self._acknowledger.wake()

    def wake(self) -> None:
        """Relay an event of a kept name that was just heard."""
        if self._relay:
            self._relay.wake()

    def _give_provisionally(self, event: Event) -> None:
        """Queue an event as heard, since the log cannot be reached."""
        kept = self._kept.get(event.name)
        if kept is None:  # its name is no longer kept
            news = self._journal.receive([(event, list(self._takers(event)))])
            self._given(Given(queued=[(event, names) for _, names in news]))
        else:
            handlers = Followed(self._journal).give_provisionally(kept.handlers, event)
            self._given(Given(queued=[(event, handlers)]))

    def polls(self) -> list[PollerStatus]:
        """The state of the fleet's blocking query."""
        return [self._follower.poll] if self._follower else []

    def status(self) -> dict[str, Any]:
        """The state, as JSON types."""
        names = dict(self._follower.status) if self._follower else {}
        if self._freeze.freeze is not None:
            names[self._freeze.name] = self._freeze.status
        relay = self._relay.status if self._relay else None
        return {
            "name": self._options.name,
            "node": self._agent.known_node,
            "names": {name: asdict(one) for name, one in names.items()},
            **({"relay": asdict(relay)} if relay else {}),
            "frozen": self._frozen(),
            "acknowledged": asdict(self._acknowledger.standing),
            "troubles": [
                *self._troubles(relay),
                *_silences(self._acknowledger.standing),
                *_troubles_of_names(names),
            ],
        }

    def _frozen(self) -> dict[str, Any] | None:
        """The freeze that holds now, as JSON types; None if there is none."""
        freeze = self._freeze.freeze
        return asdict(freeze) if freeze and freeze.holds(unix_time()) else None

    def _troubles(self, relay: RelayStatus | None) -> Iterator[str]:
        """What is wrong, one sentence each."""
        if self._follower and self._follower.trouble:
            yield f"the log cannot be followed: {self._follower.trouble}"
        if self._follower and self._follower.too_large:
            yield (
                f"there is too much below {self._keys.names} in Consul, so the log is read only every few"
                f" seconds: find out what writes there (`consul kv get -keys {self._keys.names}`)"
            )
        if self._holder and self._holder.trouble:
            yield f"this node cannot keep its copy of the log: {self._holder.trouble}"
        if relay and relay.trouble:
            given = f"; {relay.provisional} of them were applied provisionally" if relay.provisional else ""
            yield f"{relay.waiting} events that were heard are not in the log yet: {relay.trouble}{given}"
        for name, reason in (relay.spoilt if relay else {}).items():
            yield f"the log of {name} cannot be written: {reason}"


class _Library:
    """The log and the local agent, over one Consul client."""

    def __init__(self, client: ConsulClient, keys: Keys) -> None:
        self.reader = Reader(ConsulKV(client), keys)
        self._client = client

    def services(self) -> Services:
        """See `Library`."""
        return services_of(self._client.agent.services())

    def lacking(self) -> str:
        """See `Library`."""
        return " ".join(missing_rules(self._client, "read", read_prefixes(self.reader.keys)))

    def close(self) -> None:
        """See `Library`."""
        self._client.close()


def kept_names(handlers: Sequence[ConfiguredHandler]) -> list[Kept]:
    """The kept names, each with the handlers that take it."""
    latest: dict[str, bool] = {}
    takers: dict[str, dict[str, bool]] = {}
    urgent: set[str] = set()
    for handler in handlers:
        for on in handler.entry.on:
            if isinstance(on, OnEvent) and on.keep:
                latest[on.event] = on.keep == "latest"
                takers.setdefault(on.event, {})[handler.name] = handler.type.runs_once
                urgent.update([on.event] if handler.type.urgent else [])
    return [Kept(name, latest[name], takers[name], name in urgent) for name in takers]


def _troubles_of_names(names: Mapping[str, NameStatus]) -> Iterator[str]:
    for name, one in names.items():
        if one.waits:
            yield f"the log of {name} waits: {one.waits}"
        if one.incomplete_since is not None:
            yield (
                f"{name} is incomplete since message {one.incomplete_since}, because this node was away for"
                f" longer than the log reaches: publish a snapshot (`agentd publish {name} --snapshot`)"
            )


def _silences(standing: Acknowledging) -> Iterator[str]:
    """Why the fleet does not see this node properly, one sentence each."""
    if standing.trouble:
        yield f"this node cannot acknowledge: {standing.trouble}"
    if standing.unregistered:
        yield f"the service agentd is not registered: {standing.unregistered}"
