"""Leaves the fleets that the configuration does not name any more: document and service are taken back.

In a thread of its own, which begins when there is something to leave, tries until Consul agrees, and then
ends. Owns that the document of another node with the same name stays.
"""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Final

import structlog

from agentd.backoff import Backoff
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable, JournalError
from agentd.fleet import registration
from agentd.fleet.acknowledgement import DocumentError, parse
from agentd.fleet.keys import Keys
from agentd.fleet.kv import KV, ConsulKV
from agentd.journal.journal import Journal
from agentd.journal.memberships import Membership, Memberships
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions

_AGAIN: Final = Backoff(1.0, 60.0)
_log = structlog.get_logger()


class NotOurs(AgentdError):  # noqa: N818 (the name says what happened)
    """The document under this node's name is another node's."""


class Departure:
    """Leaves all fleets that are recorded in the journal but the current one.

    Args:
        journal: of this node.
        consul: the local agent.
    """

    def __init__(self, journal: Journal, consul: ConsulOptions) -> None:
        self._memberships = Memberships(journal)
        self._consul = consul
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, current: Membership | None) -> None:
        """Begin, if there is anything to leave and it is not under way.

        Raises:
            JournalError: what is recorded cannot be read.
        """
        under_way = self._thread is not None and self._thread.is_alive()
        if self._others(current) and not under_way:
            self._thread = threading.Thread(
                target=self._run, args=(current,), name="fleet departure", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End without waiting; the next start goes on with what is left."""
        self._stop.set()

    def _others(self, current: Membership | None) -> list[Membership]:
        return [one for one in self._memberships.every() if one != current]

    def _run(self, current: Membership | None) -> None:
        failures, told = 0, ""
        while not self._stop.is_set():
            try:
                for one in self._others(current):
                    self._leave(one, current)
            except (ConsulUnavailable, ConsulRefused, JournalError) as error:
                failures += 1
                if str(error) != told:
                    told = str(error)
                    _log.warning("fleet.not_left", reason=told)
                self._stop.wait(_AGAIN.delay(failures))
            except Exception:  # noqa: BLE001 (no bug may repeat itself for ever)
                _log.exception("fleet.crashed", thread=threading.current_thread().name)
                return
            else:
                return

    def _leave(self, one: Membership, current: Membership | None) -> None:
        keys = Keys(one.fleet)
        home = self._consul.at(one.datacenter)
        goes_on = current is not None and (one.fleet, one.node) == (current.fleet, current.node)
        with closing(ConsulClient(home)) as client:
            try:
                if not goes_on:
                    registration.deregister(client, one.fleet, one.node)
                take_back(ConsulKV(client), keys, one.node, client.self_info().node_id)
            except NotOurs as error:
                _log.warning("fleet.not_left", fleet=one.fleet, node=one.node, reason=str(error))
            except ConsulRefused as error:
                raise ConsulRefused(
                    f"leaving the fleet {one.fleet} is refused; the policy of the token needs"
                    f' {registration.RULE} key "{keys.node(one.node)}" {{ policy = "write" }}: {error}'
                ) from error
            else:
                _log.info("fleet.left", fleet=one.fleet, node=one.node)
        self._memberships.remove(one)


def take_back(kv: KV, keys: Keys, node: str, agent: str) -> bool:
    """Remove the document of a node, unless another agent wrote it.

    Args:
        kv: of the fleet's home datacenter.
        keys: of the fleet.
        node: whose document.
        agent: ID of the node's Consul agent, "" if it is not known.

    Returns:
        Whether there was one.

    Raises:
        NotOurs: another agent wrote it.
        ConsulUnavailable: no answer, or it was written anew meanwhile.
        ConsulRefused: the token may not.
    """
    pair = kv.pair(keys.node(node), consistent=True)
    if pair is None:
        return False
    try:
        owner = parse(pair.value).node_id
    except DocumentError:
        owner = ""  # whoever wrote that, it is of no use to anybody
    if owner and agent and owner != agent:
        raise NotOurs(
            f"the acknowledgement of {node} was not written by this node but by the one with the Consul agent"
            f" {owner}: two nodes share the name; rename one of them (fleet.node), or run"
            f" `agentd fleet forget {node}`"
        )
    if not kv.delete(keys.node(node), pair.index):
        raise ConsulUnavailable(
            f"{node} has just acknowledged again: is an agentd of that name still running somewhere?"
        )
    return True
