"""Writes what this node acknowledges, and keeps the service `agentd` registered: one thread, one connection.

It writes when something has changed, soon after a quiet time and then seldom, so that a thousand nodes do not
crowd Consul's servers. What could not be written is kept and written later. The document is written with
check-and-set on the index of its own last write: if another node has the same name, one of the two loses,
says so, and leaves it to the other; so there is no war of writes.
"""

from __future__ import annotations

import random
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.fleet import registration
from agentd.fleet.acknowledgement import Acknowledgement, DocumentError, parse, render
from agentd.fleet.condition import Condition
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV, cas
from agentd.fleet.options import FleetOptions
from agentd.heartbeat import Heartbeat
from agentd.watch.client import AgentInfo, ConsulClient
from agentd.watch.kv import Pair

FAREWELL: Final = 2.0
"""Seconds for which a stop waits, at most, until the document says so."""
_LOOK: Final = 5.0  # seconds between two looks when nothing is said to have happened
_FEWEST: Final = 1.0  # seconds between two writes, ...
_A_SECOND: Final = 300  # ... or so many writes a second in the whole fleet
_TOGETHER: Final = 0.05  # seconds for what happens together, such as the end of a batch
_CHECK: Final = (
    60.0  # seconds between two looks at who we are, and whether document and service are still there
)
_REFUSED: Final = 60.0  # seconds until what was refused is tried again
_BEAT: Final = 90.0
_LOST: Final = Backoff(1.0, 30.0)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANCE: Final = secrets.token_hex(4)  # of this process
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_log = structlog.get_logger()


class NameTaken(AgentdError):  # noqa: N818 (the name says what happened)
    """Another node acknowledges under this node's name."""


@dataclass(frozen=True, slots=True)
class Acknowledging:
    """How the acknowledging goes.

    Attributes:
        node: under which name; "" as long as that is not known.
        written: unix time of the last write; None if there was none.
        trouble: why the document there is not what it ought to be; "" if it is.
        name_taken: whether that is because another node has the name.
        unregistered: why the service is not registered; "" if it is, or is not to be.
        writes: how often it was written.
    """

    node: str = ""
    written: float | None = None
    trouble: str = ""
    name_taken: bool = False
    unregistered: str = ""
    writes: int = 0


class Acknowledger:
    """Acknowledges for one node. `start`, `wake` when something may have changed, `stop`.

    Args:
        options: the section `fleet:`.
        connect: makes a client of the local agent that asks the fleet's home datacenter.
        look: what is the case now.
        heartbeat: of its thread.
        version: of agentd.
        status: the address and port of the HTTP endpoints; None if there are none.
        joined: learns the home datacenter and the name, before anything is written there under it.
        clock: unix seconds.
        timer: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 (each is another room's; all named at the one call)
        self,
        options: FleetOptions,
        *,
        connect: Callable[[], ConsulClient],
        look: Callable[[], Condition],
        heartbeat: Heartbeat,
        version: str,
        status: Callable[[], str | None],
        joined: Callable[[str, str], None] = lambda *_: None,
        clock: Callable[[], float] = unix_time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._keys = Keys(options.name)
        self._connect = connect
        self._look = look
        self._heartbeat = heartbeat
        self._version = version
        self._status = status
        self._joined = joined
        self._clock = clock
        self._timer = timer
        self._boot = _boot()
        self._instance = _INSTANCE
        self._rivalled = False  # another daemon at our agent took over our document while we run
        self._client: ConsulClient | None = None
        self._who: AgentInfo | None = None
        self._node = ""
        self._elsewhere = ""  # our datacenter, if the fleet is at home in another one
        self._index: int | None = None  # of our document; None if it must be looked up
        self._document: Acknowledgement | None = None  # as it was written last
        self._not_before = self._check_at = self._register_at = 0.0
        self._failures = 0
        self._registered_once = False
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._farewell = False
        self.standing = Acknowledging()
        """How it goes; replaced as a whole, so that any thread may read it."""
        self._thread = threading.Thread(target=self._run, name="fleet acknowledger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Something may have changed; does not wait."""
        self._woken.set()

    def stop(self, *, farewell: bool = False) -> None:
        """End the thread, within `FAREWELL` seconds; a farewell says that agentd was stopped."""
        self._farewell = farewell
        self._stopping.set()
        self._woken.set()
        self._thread.join(FAREWELL)
        client = self._client
        if self._thread.is_alive() and client:
            client.close()  # whatever it waits for fails at once

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            self._heartbeat.beat(_BEAT)
            self._woken.wait(pause)
            if self._stopping.wait(_TOGETHER):
                break
            self._woken.clear()
            pause = self.turn()
        if self._farewell:
            self._say_farewell()
        self._disconnect()

    def turn(self) -> float:
        """Do what is due. Returns the seconds until the next look, unless somebody wakes it before."""
        now = self._timer()
        if now < self._not_before:
            return min(_LOOK, self._not_before - now)
        try:
            self._do(now)
        except NameTaken as error:
            self._wait(now, _REFUSED * random.uniform(0.8, 1.2), str(error), taken=True)  # noqa: S311 (jitter)
        except ConsulRefused as error:
            self._wait(now, _REFUSED, str(error))
        except ConsulUnavailable as error:
            self._failures += 1
            self._disconnect()
            self._wait(now, _LOST.delay(self._failures), str(error))
        except AgentdError as error:  # of the journal, or a document that is too large
            self._wait(now, _LOOK, str(error))
        except Exception as error:  # noqa: BLE001 (no bug may end the thread)
            _log.exception("fleet.crashed", thread=self._thread.name)
            self._wait(now, _REFUSED, f"bug: {type(error).__name__}, see the log")
        else:
            self._failures = 0
            self._tell("", taken=False)
        left = self._not_before - self._timer()
        return min(_LOOK, left) if left > 0 else _LOOK

    def _do(self, now: float) -> None:
        client = self._client = self._client or self._connect()
        if self._who is None or now >= self._check_at:
            self._find_out(client, now)
        if (
            now >= self._register_at and not self._rivalled
        ):  # first: who cannot acknowledge is known to be alive
            self._register_at = now + _CHECK
            self._register(client)
        document = self._compose()
        if not document.same_as(self._document):
            self._write(client, document)
            self._document = document
            who = self._who
            self._not_before = self._timer() + max(_FEWEST, (who.members if who else 1) / _A_SECOND)
            self._note(written=self._clock(), writes=self.standing.writes + 1)

    def _find_out(self, client: ConsulClient, now: float) -> None:
        """Who we are, which may change while we run; and whether our document is still there."""
        who = client.self_info()
        node = self._options.node or who.node
        try:
            key = self._keys.node(node)
        except ValueError as error:
            raise ConsulRefused(str(error)) from error
        if (node, who.node_id) != (self._node, self._who.node_id if self._who else ""):
            self._index = self._document = None
            self._register_at = 0.0
            self._joined(client.dc or who.datacenter, node)
        elif self._index is not None:
            found = ConsulKV(client).pair(key)
            if (found.index if found else 0) != self._index:
                self._index = self._document = None
                self._rivalled = self._is_rival(_writer(found) if found else None)
        self._elsewhere = "" if client.dc in (None, who.datacenter) else who.datacenter
        self._who, self._node, self._check_at = who, node, now + _CHECK * random.uniform(0.8, 1.2)  # noqa: S311
        self._note(node=node)

    def _compose(self, stopped: float | None = None) -> Acknowledgement:
        found = self._look()
        return Acknowledgement(
            agentd=self._version,
            node_id=self._who.node_id if self._who else "",
            boot=self._boot,
            written=self._clock(),
            instance=self._instance,
            datacenter=self._elsewhere,
            generation=found.generation,
            names=found.names,
            handlers=found.handlers,
            options=found.options,
            drift=found.drift,
            stopped=stopped,
        )

    # ------------------------------------------------------------------ the document

    def _write(self, client: ConsulClient, document: Acknowledgement) -> None:
        kv, key = ConsulKV(client), self._keys.node(self._node)
        data = render(document)
        known, self._index = self._index, None  # if there is no answer, nobody knows
        try:
            index = self._claim(kv, client, key) if known is None else known
            self._index = _put(kv, key, data, index)
            if self._index is None:
                self._index = _put(kv, key, data, self._own(kv, key))
        except ConsulRefused as error:
            rule = f'key "{key}" {{ policy = "write" }}'
            raise ConsulRefused(
                f"acknowledging as {self._node} is refused; the policy of the token needs {rule}: {error}"
            ) from error
        if self._index is None:
            raise ConsulUnavailable("others keep overwriting this node's acknowledgement")

    def _own(self, kv: ConsulKV, key: str) -> int:
        """Somebody else wrote our document, or removed it: its index, if it is ours to write.

        Raises:
            NameTaken: it is another node's.
        """
        found = kv.pair(key, consistent=True)
        other = _writer(found) if found else None
        if other and other.node_id != self._node_id:
            raise NameTaken(_taken(self._node, other))
        self._rivalled = self._is_rival(other)
        if self._rivalled:
            raise NameTaken(_doubled(self._node))
        return found.index if found else 0

    def _is_rival(self, other: Acknowledgement | None) -> bool:
        """Whether that is of another daemon at our agent, which runs as far as it says."""
        return (
            other is not None
            and other.node_id == self._node_id
            and other.instance not in ("", self._instance)
            and other.stopped is None
        )

    def _claim(self, kv: ConsulKV, client: ConsulClient, key: str) -> int:
        """The index of the document that is there, if it is ours, or that of a node that is gone.

        Raises:
            NameTaken: it is that of another node which the catalogue has.
        """
        found = kv.pair(key, consistent=True)
        other = _writer(found) if found else None
        if other and other.node_id != self._node_id and other.stopped is None:
            if not self._is_gone(client, other.node_id):
                raise NameTaken(_taken(self._node, other))
            _log.warning("fleet.name_taken_over", node=self._node, from_agent=other.node_id)
        if self._rivalled:  # at a start, however, it is that of the process before
            return self._own(kv, key)
        return found.index if found else 0

    @property
    def _node_id(self) -> str:
        return self._who.node_id if self._who else ""

    def _is_gone(self, client: ConsulClient, other: str) -> bool:
        """Whether the catalogue, in which we find ourselves, has no agent with this ID."""
        if not _UUID.fullmatch(other):
            return True
        question = f'ID == "{other}" or ID == "{self._node_id}"'
        found = client.get("/v1/catalog/nodes", [("filter", question)]).raw or ()
        ids = {one.get("ID") for one in found if isinstance(one, dict)}
        return self._node_id in ids and other not in ids

    def _say_farewell(self) -> None:
        """Write that agentd was stopped, and do not insist."""
        if self._client is None or self._who is None or self.standing.name_taken:
            return
        with suppress(AgentdError):
            self._write(self._client, self._compose(stopped=self._clock()))

    # ------------------------------------------------------------------ the service

    def _register(self, client: ConsulClient) -> None:
        """What is refused here keeps nothing else from being done."""
        try:
            why = self._registered(client)
        except ConsulRefused as error:
            why = f"add {registration.RULE} to the policy of the token: {error}"
        if why and why != self.standing.unregistered:
            _log.warning("fleet.not_registered", reason=why)
        self._note(unregistered=why)

    def _registered(self, client: ConsulClient) -> str:
        fleet = self._options.name
        if not self._options.service:
            registration.deregister(client, fleet, self._node)
            return ""
        status = self._status()
        if status is None:
            registration.deregister(client, fleet, self._node)
            return "status.address is null, so there is nothing for Consul to check"
        if registration.ensure(client, fleet, self._node, status, afresh=not self._registered_once):
            self._registered_once = True
            _log.info("fleet.registered", service=registration.SERVICE, node=self._node)
        return ""

    # ------------------------------------------------------------------ how it goes

    def _wait(self, now: float, seconds: float, trouble: str, *, taken: bool = False) -> None:
        self._not_before = now + seconds
        self._tell(trouble, taken=taken)

    def _tell(self, trouble: str, *, taken: bool) -> None:
        """Log what is new about it: once, not at every attempt."""
        before = self.standing
        if taken and not before.name_taken:
            _log.error("fleet.name_taken", node=self._node, reason=trouble)
        elif trouble and not before.trouble:
            _log.warning("fleet.not_acknowledged", node=self._node, reason=trouble)
        elif before.trouble and not trouble:
            _log.info("fleet.acknowledged", node=self._node)
        self._note(trouble=trouble, name_taken=taken)

    def _note(self, **fields: Any) -> None:  # noqa: ANN401 (fields of Acknowledging)
        values = {name: getattr(self.standing, name) for name in Acknowledging.__dataclass_fields__}
        self.standing = Acknowledging(**(values | fields))

    def _disconnect(self) -> None:
        self._who = None
        if self._client is not None:
            self._client.close()
            self._client = None


def _put(kv: ConsulKV, key: str, data: bytes, index: int) -> int | None:
    """Write, and return the index of what was written; None if `index` is not that of the key any more."""
    done = kv.write([cas(key, data, index)])
    if done.failures:
        return None
    found = done.results[0].get("ModifyIndex") if done.results else None
    if type(found) is not int:
        raise ConsulUnavailable("the answer to a transaction has no ModifyIndex: is this a Consul agent?")
    return found


def _writer(pair: Pair) -> Acknowledgement | None:
    """Whose document it is; None if it is junk, which is nobody's."""
    with suppress(DocumentError):
        return parse(pair.value)
    return None


def _taken(node: str, other: Acknowledgement) -> str:
    return (
        f"another node acknowledges as {node} (its Consul agent has the ID {other.node_id}): give one of them"
        f" another name with fleet.node, or, if it is gone for good, run `agentd fleet forget {node}`"
    )


def _doubled(node: str) -> str:
    return (
        f"another daemon at the same Consul agent acknowledges as {node}: give each of them a name of its own"
        " with fleet.node, and restart them"
    )


def _boot() -> str:
    """The ID of this boot of the machine; "" where the kernel does not say."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
