"""Writes this node's acknowledgement, and keeps the service `agentd` registered: one thread, one connection.

Owns the pace: a change is written at once after a quiet period, and at a limited rate otherwise, so that a
thousand nodes do not overload Consul's servers. A failed write is repeated. `own_document` knows whether the
document is this node's to write.
"""

from __future__ import annotations

import random
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
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.allowance import Allowance
from agentd.fleet.condition import Condition
from agentd.fleet.keys import Keys
from agentd.fleet.options import FleetOptions
from agentd.fleet.own_document import NameTaken, OwnDocument
from agentd.heartbeat import Heartbeat
from agentd.watch.client import AgentInfo, ConsulClient

FAREWELL: Final = 2.0
"""Most seconds that `stop` waits for the thread, including for the farewell."""
_LOOK: Final = 5.0  # seconds between two turns without a wake
_FEWEST: Final = 1.0  # seconds between two writes of this node, at least, in the long run
_IN_A_ROW: Final = 3  # writes after a quiet period: a rotation of keys needs as many
_A_SECOND: Final = 300  # writes a second of the whole fleet, at most
_UNDER_WAY: Final = 0.5  # seconds for which it is not worth a write that a message is being applied
_TOGETHER: Final = 0.05  # seconds to wait for changes that come together, such as at the end of a batch
_CHECK: Final = 60.0  # seconds between two checks of this node's name, its document and its service
_REFUSED: Final = 60.0  # seconds until something that was refused is tried again
_BEAT: Final = 90.0
_LOST: Final = Backoff(1.0, 30.0)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Acknowledging:
    """The state of this node's acknowledgement.

    Attributes:
        node: the name under which it acknowledges; "" while that is unknown.
        written: unix time of the last write; None if there was none.
        trouble: why the document in Consul is not up to date; "" if it is.
        name_taken: whether that is because another node has the name.
        unregistered: why the service is not registered; "" if it is, or need not be.
        writes: the number of writes so far.
    """

    node: str = ""
    written: float | None = None
    trouble: str = ""
    name_taken: bool = False
    unregistered: str = ""
    writes: int = 0


class Acknowledger:
    """Acknowledges for one node. Call `start`, `wake` whenever something may have changed, and `stop`.

    Args:
        options: the section `fleet:`.
        connect: makes a client of the local agent, for the fleet's home datacenter.
        look: returns what there is to acknowledge.
        heartbeat: the thread's heartbeat.
        version: agentd's version.
        status: returns the URL of the HTTP endpoints, without a path; None if there are none.
        joined: called with the home datacenter and this node's name before anything is written there.
        clock: unix seconds.
        timer: monotonic seconds.

    Attributes:
        standing: the state; replaced as a whole, so that any thread may read it.
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
        self._own = OwnDocument(self._keys)
        self._client: ConsulClient | None = None
        self._who: AgentInfo | None = None
        self._node = ""
        self._elsewhere = ""  # this node's datacenter, if the fleet's home is another one
        self._document: Acknowledgement | None = None  # as last written
        self._not_before = self._check_at = self._register_at = 0.0
        self._allowance = Allowance(_IN_A_ROW)
        self._under_way: float | None = None  # since when a message is being applied of which nobody was told
        self._failures = 0
        self._registered_once = False
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._farewell = False
        self.standing = Acknowledging()
        self._thread = threading.Thread(target=self._run, name="fleet acknowledger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Check soon whether there is something new to acknowledge; does not wait."""
        self._woken.set()

    def stop(self, *, farewell: bool = False) -> None:
        """End the thread, within `FAREWELL` seconds; a farewell says that agentd was stopped."""
        self._farewell = farewell
        self._stopping.set()
        self._woken.set()
        self._thread.join(FAREWELL)
        client = self._client
        if self._thread.is_alive() and client:
            client.close()  # makes a request in flight fail at once

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
        """Do what is due. Returns the seconds until the next turn, unless it is woken before."""
        now = self._timer()
        if now < self._not_before:
            return min(_LOOK, self._not_before - now)
        pause = 0.0
        try:
            pause = self._do(now)
        except NameTaken as error:
            self._wait(now, _REFUSED * random.uniform(0.8, 1.2), str(error), taken=True)  # noqa: S311 (jitter)
        except ConsulRefused as error:
            self._wait(now, _REFUSED, str(error))
        except ConsulUnavailable as error:
            self._failures += 1
            self._disconnect()
            self._wait(now, _LOST.delay(self._failures), str(error))
        except AgentdError as error:  # from the journal, or since the document is too large
            self._wait(now, _LOOK, str(error))
        except Exception as error:  # noqa: BLE001 (the thread must survive any bug)
            _log.exception("fleet.crashed", thread=self._thread.name)
            self._wait(now, _REFUSED, f"bug: {type(error).__name__}, see the log")
        else:
            self._failures = 0
            self._tell("", taken=False)
        left = pause or self._not_before - self._timer()
        return min(_LOOK, left) if left > 0 else _LOOK

    def _do(self, now: float) -> float:
        """Write the document if it is worth it. Returns the seconds until it will be; 0 if nothing waits."""
        client = self._client = self._client or self._connect()
        if self._who is None or now >= self._check_at:
            self._find_out(client, now)
        # The service comes first, so that a node that cannot acknowledge is at least known to be alive.
        if now >= self._register_at and not self._own.rivalled:
            self._register_at = now + _CHECK
            self._register(client)
        document = self._compose()
        if (rest := self._soon_over(document, now)) > 0:
            return rest
        if not document.same_as(self._document):
            self._own.write(client, render(document))
            self._document = document
            who = self._who
            share, written = (who.members if who else 1) / _A_SECOND, self._timer()
            self._not_before = written + self._allowance.use(written, max(_FEWEST, share), share)
            self._note(written=self._clock(), writes=self.standing.writes + 1)
        return 0.0

    def _soon_over(self, document: Acknowledgement, now: float) -> float:
        """For how many seconds not to write yet, because a new message will have an outcome in a moment.

        Otherwise each message would cost two writes, the second of which often has to wait for its turn.
        """
        known = self._document.names if self._document else {}
        begun = [
            name
            for name, one in document.names.items()
            if one.tried and not one.tried.outcome and name in known and one.tried != known[name].tried
        ]
        if not begun:
            self._under_way = None
            return 0.0
        if self._under_way is None:
            self._under_way = now
        return self._under_way + _UNDER_WAY - now

    def _find_out(self, client: ConsulClient, now: float) -> None:
        """Find out this node's name, which may change meanwhile, and whether its document is still there."""
        who = client.self_info()
        node = self._options.node or who.node
        try:
            self._keys.node(node)
        except ValueError as error:
            raise ConsulRefused(str(error)) from error
        if (node, who.node_id) != (self._node, self._who.node_id if self._who else ""):
            self._own.rename(node, who.node_id)
            self._document = None
            self._register_at = 0.0
            self._joined(client.dc or who.datacenter, node)
        elif not self._own.is_intact(client):
            self._document = None
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
            instance=self._own.instance,
            datacenter=self._elsewhere,
            generation=found.generation,
            names=found.names,
            handlers=found.handlers,
            options=found.options,
            drift=found.drift,
            not_served=found.not_served,
            stopped=stopped,
            paused=found.paused,
        )

    def _say_farewell(self) -> None:
        """Write that agentd was stopped; if that fails, do without."""
        if self._client is None or self._who is None or self.standing.name_taken:
            return
        with suppress(AgentdError):
            self._own.write(self._client, render(self._compose(stopped=self._clock())))

    # ------------------------------------------------------------------ the service

    def _register(self, client: ConsulClient) -> None:
        """Register the service, or deregister it; a refusal holds up nothing else."""
        try:
            why = self._registered(client)
        except ConsulRefused as error:
            why = f"add to the token's policy: {registration.RULE}: {error}"
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

    # ------------------------------------------------------------------ the state

    def _wait(self, now: float, seconds: float, trouble: str, *, taken: bool = False) -> None:
        self._not_before = now + seconds
        self._tell(trouble, taken=taken)

    def _tell(self, trouble: str, *, taken: bool) -> None:
        """Log a change for the better or worse, once and not at every attempt."""
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


def _boot() -> str:
    """The ID of the machine's current boot; "" if the kernel does not tell."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
