"""A name of the fleet's log whose messages follow from each other: read, published after the newest, watched.

For commands that take a fleet from one state to the next. Each of them decides by what it has read, and what
it publishes counts only if nobody was faster. Owns what is believed of the log, and which nodes count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentd.commands.fleet_watch import FleetWatch
from agentd.commands.publisher import publisher
from agentd.commands.signing import Signing, read_signing
from agentd.errors import (
    AgentdError,
    BadDocument,
    ConsulRefused,
    ConsulUnavailable,
    Contended,
    FleetError,
    LogLost,
    Overtaken,
    Untrusted,
)

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.census import Census
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.head import Head
    from agentd.fleet.keys import Keys
    from agentd.fleet.log import Log
    from agentd.fleet.standing import Member
    from agentd.watch.changes import Event

_MOST_READ: Final = 1024  # messages, from the newest on, among which one is believed
_TRIES: Final = 3
_MUTE: Final = "the service `agentd` is registered there, but agentd does not acknowledge"
_QUICK: Final = 0.001  # seconds between two readings, for each node
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Taker:
    """A node that takes the name, or of which nobody knows whether it does.

    Attributes:
        node: its name.
        live: the number of the message in force there, as proved; 0 if none is.
        waits: why a newer one is not in force there.
        reports: what the handlers that take the name report, by handler.
        is_mute: whether nothing of what it acknowledges is known.
    """

    node: str
    live: int
    waits: str
    reports: Mapping[str, Mapping[str, Any]]
    is_mute: bool = False

    def reported(self, key: str) -> list[Any]:
        """What each handler reports under this key, if it does."""
        return [one[key] for one in self.reports.values() if key in one]


@dataclass(frozen=True, slots=True)
class State:
    """The log and its nodes at one moment.

    Attributes:
        newest: the number of the newest message, whether it is believed or not; 0 if there never was one.
        num: the number of the newest message that is believed; 0 if there is none.
        payload: its payload, opened; None if there is none.
        publisher: who signed it.
        doubt: why newer messages, or all, are not believed; "" if there are none.
        takers: the nodes.
    """

    newest: int
    num: int
    payload: bytes | None = field(repr=False)
    publisher: str
    doubt: str
    takers: Sequence[Taker]


class CoordinatedName:
    """One sealed name of the log.

    Args:
        reached: the fleet; the caller closes its client.
        name: of the log.
        purpose: for what rights are needed, such as "rotating".
        timeout: seconds after which Consul is asked nothing more.

    Raises:
        ConfigError: the section `trust:` is wrong.
        BadKey: a key cannot be used.
    """

    def __init__(self, reached: ReachedFleet, name: str, purpose: str, timeout: float) -> None:
        from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)

        self.name = name
        self.fleet = reached.name
        self._client = reached.client
        self._purpose = purpose
        self._signing: Signing = read_signing(reached)
        self._keys: Keys = Keys(reached.name)
        self._kv: ConsulKV = ConsulKV(reached.client)
        self._census: Census = Census(reached.client, self._keys, consistent=True)
        self._watch = FleetWatch(reached.client, self._keys, timeout)
        self._understood = False

    # ------------------------------------------------------------------ before

    @property
    def may_publish(self) -> bool:
        """Whether the key of a publisher is here who may send this name."""
        return self._signing.signer is not None and self._signing.may_send(self.name)

    def require(self) -> None:
        """Require that what is published here would count, and stay secret.

        Raises:
            AgentdError: it would not.
            ConsulRefused: the token lacks a right; the text has the rules to add.
        """
        from agentd.fleet.registration import SERVICE  # noqa: PLC0415 (as above)
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)
        from agentd.trust.pattern import FREEZE  # noqa: PLC0415 (as above)

        self._signing.require_publisher()
        self._signing.check(self.name)
        if not self._signing.seals(self.name):
            raise AgentdError(
                f"the payloads of {self.name!r} are secret: add it to `trust.seal`, here and on all nodes"
            )
        # Consul leaves out what the token may not see: nodes would not be waited for, or no message found.
        keys = self._keys
        logs = [part(name) for name in (self.name, FREEZE) for part in (keys.head, keys.messages)]
        demand(self._client, "read", [keys.nodes, *logs], self._purpose)
        for resource, name, rule in (
            ("service", SERVICE, f'service "{SERVICE}"'),
            ("node", "", 'node_prefix ""'),
        ):
            if self._client.authorized(resource, "read", name) is False:
                needed = f'{rule} {{ policy = "read" }}'
                raise ConsulRefused(f"{self._purpose} needs more rights: add to the token's policy: {needed}")

    @property
    def accepts_events(self) -> bool:
        """Whether events of this name bring payloads, because some nodes know no other way yet."""
        options = self._signing.options
        return options is not None and options.accepts_events(self.name)

    # ------------------------------------------------------------------ reading

    def frozen(self) -> str:
        """Why nothing new is to begin in this fleet; "" if it may.

        Raises:
            ConsulUnavailable, ConsulRefused: it cannot be read.
            FleetError: what is there cannot be understood.
        """
        from agentd.fleet.freeze import read_freeze  # noqa: PLC0415 (as above)

        log = self._log()
        freeze = self.patiently(lambda: read_freeze(log, self._signing.admit, consistent=True))
        return str(freeze) if freeze and freeze.holds(time.time()) else ""

    def read(self) -> State:
        """The newest message that is believed, and then the nodes, all as Consul's leader knows them.

        Raises:
            ConsulUnavailable, ConsulRefused: it cannot be read.
            AgentdError: nothing can be decided by what is there; the text says why.
        """
        return self.patiently(self._read)

    def _read(self) -> State:
        log = self._log()
        head = self._head(log)
        while True:
            found, payload, doubt = self._believed(log, head)
            if not doubt:
                break
            newer = self._head(log)  # perhaps what was looked for has just been replaced
            if newer == head or self.left() <= 0:
                break
            head = newer
        documents = self._census.documents()
        members = self._census.members(documents, self._census.catalogue(documents.datacenters))
        signed_by = ""
        if found is not None and (verified := self._signing.verify(found)):
            signed_by = verified.publisher
        num = found.num if found else 0
        newest = head.newest if head else 0
        known = {*documents.indexes, *(one.runs_as for one in members)}
        takers = [*self._takers(members, num), *self._mute(known)]
        return State(newest, num, payload, signed_by, doubt, takers)

    def _head(self, log: Log) -> Head | None:
        """The head. Raises AgentdError: it cannot be used."""
        try:
            return log.head(self.name, consistent=True)
        except BadDocument as error:
            key = self._keys.head(self.name)
            raise AgentdError(
                f"{self.name}: {error}: nodes that run put that right within seconds, so try again; if they"
                f" do not, `consul kv delete {key}`"
            ) from error

    def _mute(self, known: Collection[str]) -> list[Taker]:
        """The nodes whose daemons are registered, healthy or not, without an acknowledgement.

        If Consul has lost that, nobody knows what they take.
        """
        every = {name for names in self._census.registered().values() for name in names}
        return [Taker(name, 0, _MUTE, {}, is_mute=True) for name in sorted(every.difference(known))]

    def _believed(self, log: Log, head: Head | None) -> tuple[Envelope | None, bytes | None, str]:
        """The newest message that is believed, its payload, and why newer ones are not."""
        if head is None or head.is_empty:
            return None, None, ""
        doubt = ""
        for num, found in self._newest_first(log, head):
            try:
                if isinstance(found, FleetError):
                    raise found
                if found is not None and found.is_sealed:
                    return found, self._signing.body(found, log), doubt
                why = "it is not sealed"
            except (BadDocument, Untrusted) as error:
                why = str(error)
            doubt = doubt or f"message {num} is not believed here ({why})"
        return None, None, doubt or "the log's messages are missing"

    def _newest_first(self, log: Log, head: Head) -> Iterator[tuple[int, Envelope | FleetError | None]]:
        """The messages, or why one cannot be read; whoever may write to the log may have put many there."""
        from agentd.fleet.kv import MOST_READS  # noqa: PLC0415 (parsing does without)

        numbers = log.numbers(self.name, above=head.floor, upto=head.newest, consistent=True)[-_MOST_READ:]
        for end in range(len(numbers), 0, -MOST_READS):
            some = numbers[max(0, end - MOST_READS) : end]
            reading = log.read(self.name, some, consistent=True)
            found: dict[int, Envelope | FleetError] = {one.num: one for one in reading.messages}
            found.update(reading.troubles)
            yield from ((num, found.get(num)) for num in reversed(some))

    def _takers(self, members: Sequence[Member], num: int) -> list[Taker]:
        from agentd.fleet.newest import Newest  # noqa: PLC0415 (as above)
        from agentd.fleet.standing import progress, takers  # noqa: PLC0415 (as above)

        newest = Newest(self.name, num)
        return [self._taker(one, progress(one, newest).reason) for one in takers(members, newest, 0.0)]

    def _taker(self, member: Member, waits: str) -> Taker:
        document = member.document
        if document is None:
            return Taker(member.runs_as or member.node, 0, waits, {}, is_mute=True)
        reports = {title: one.report for title, one in document.handlers.items() if self.name in one.names}
        return Taker(member.node, document.names[self.name].live or 0, waits, reports)

    def watch(self, num: int, count: int) -> list[Taker]:
        """Wait until a node acknowledges something, for a few seconds at most; any server may answer.

        Args:
            num: of the message that they are to have in force.
            count: how many nodes there were; the more, the less often they are read.
        """
        members = self.patiently(self._watch.members)
        time.sleep(min(_QUICK * count, self._watch.left()))
        return self._takers(members, num)

    def heard(self) -> list[Event]:
        """The events of this name for all nodes that the local agent still knows, in their order.

        Raises:
            ConsulUnavailable, ConsulRefused: it does not answer.
        """
        from agentd.watch.changes import Event  # noqa: PLC0415 (as above)
        from agentd.watch.queries import EventQuery  # noqa: PLC0415 (as above)

        filters = ("NodeFilter", "ServiceFilter", "TagFilter")
        found = EventQuery().fetch(self._client).changes
        return sorted(
            (
                one
                for one in found
                if isinstance(one, Event)
                and one.name == self.name
                and not any(one.raw.get(key) for key in filters)
            ),
            key=lambda one: (one.raw["LTime"], one.id),
        )

    # ------------------------------------------------------------------ writing

    def publish_after(self, newest: int, payload: bytes) -> int | None:
        """Publish to all nodes, if the newest message is still this one.

        Returns:
            The number of the message; None if it is not known to be there: read again.

        Raises:
            AgentdError: a node would not understand it.
            ConsulRefused: the token lacks a right; the text has the rules to add.
        """
        from agentd.fleet.envelope import SIGNED, Draft  # noqa: PLC0415 (as above)
        from agentd.fleet.rights import explained  # noqa: PLC0415 (as above)

        keys, log = self._keys, self._log()
        draft = Draft(payload, issued=time.time(), publisher=publisher(), sealed=True)
        needed = [keys.head(self.name), keys.messages(self.name), keys.pruned(self.name)]
        try:
            if not self._understood:
                from agentd.commands.understood import require_understood  # noqa: PLC0415 (as above)

                require_understood(log, self._client, SIGNED, self._purpose)
                self._understood = True
            with explained(self._client, "write", needed, self._purpose):
                for _ in range(_TRIES):
                    with suppress(Contended):  # perhaps by junk, which the next attempt steps over
                        return log.append(self.name, [draft], keep="latest", newest=newest)[draft.id].num
        except (Overtaken, LogLost, ConsulUnavailable):
            return None
        return None

    def left(self) -> float:
        """Seconds until the timeout."""
        return self._watch.left()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the timeout."""
        time.sleep(min(seconds, self.left()))

    def patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask Consul again while it does not answer, as during an election, and time is left.

        Raises:
            ConsulUnavailable: it never answered.
        """
        return self._watch.patiently(ask)

    def _log(self) -> Log:
        from agentd.fleet.log import Log  # noqa: PLC0415 (as above)

        return Log(self._kv, self._keys, signer=self._signing.signer, believes=self._signing.believes)
