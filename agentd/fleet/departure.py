"""Leaves the fleets that are no longer configured: removes this node's acknowledgement and service there.

Works in its own thread, which starts when there is a fleet to leave, retries until it succeeds, and ends.
Never removes the acknowledgement of another node with the same name.
"""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Final

import structlog

from agentd.backoff import Backoff
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable, JournalError
from agentd.fleet import registration
from agentd.fleet.acknowledgement_codec import DocumentError, parse
from agentd.fleet.keys import Keys
from agentd.fleet.kv import KV, ConsulKV
from agentd.journal.journal import Journal
from agentd.journal.memberships import Membership, Memberships
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions

_AGAIN: Final = Backoff(1.0, 60.0)
_log = structlog.get_logger()


class NotOurs(AgentdError):  # noqa: N818 (the name says what happened)
    """The acknowledgement under this node's name is another node's."""


class Departure:
    """Leaves all fleets recorded in the journal, except the current one.

    Args:
        journal: this node's journal.
        consul: the section `consul:`.
    """

    def __init__(self, journal: Journal, consul: ConsulOptions) -> None:
        self._memberships = Memberships(journal)
        self._consul = consul
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, current: Membership | None) -> None:
        """Start leaving, if there is a fleet to leave and the thread is not running.

        Raises:
            JournalError: the recorded memberships cannot be read.
        """
        under_way = self._thread is not None and self._thread.is_alive()
        if self._others(current) and not under_way:
            self._thread = threading.Thread(
                target=self._run, args=(current,), name="fleet departure", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the thread, without waiting for it; the next start continues."""
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
                    f"leaving the fleet {one.fleet} needs more rights: add to the token's policy:"
                    f' {registration.RULE} key "{keys.node(one.node)}" {{ policy = "write" }}: {error}'
                ) from error
            else:
                _log.info("fleet.left", fleet=one.fleet, node=one.node)
                if not goes_on and client.authorized("service", "write", registration.SERVICE) is False:
                    _log.warning(
                        "fleet.not_left",
                        fleet=one.fleet,
                        node=one.node,
                        reason="the token may not see whether the service agentd is still registered: add"
                        f" {registration.RULE} to its policy, and run `agentd leave --fleet {one.fleet}`",
                    )
        self._memberships.remove(one)


def take_back(kv: KV, keys: Keys, node: str, agent: str) -> bool:
    """Remove a node's acknowledgement, unless a node with another Consul agent wrote it.

    Args:
        kv: the KV store of the fleet's home datacenter.
        keys: the fleet's keys.
        node: the node's name.
        agent: ID of the node's Consul agent; "" if unknown.

    Returns:
        Whether there was one.

    Raises:
        NotOurs: a node with another Consul agent wrote it.
        ConsulUnavailable: there was no answer, or the node has just acknowledged again.
        ConsulRefused: the token lacks the right.
    """
    pair = kv.pair(keys.node(node), consistent=True)
    if pair is None:
        return False
    try:
        owner = parse(pair.value).node_id
    except DocumentError:
        owner = ""  # junk, which nobody needs
    if owner and agent and owner != agent:
        raise NotOurs(
            f"the acknowledgement of {node} belongs to another node, with the Consul agent {owner}: two nodes"
            f" share the name; rename one of them (fleet.node), or run `agentd fleet forget {node}`"
        )
    if not kv.delete(keys.node(node), pair.index):
        raise ConsulUnavailable(
            f"{node} has just acknowledged again: is an agentd of that name still running somewhere?"
        )
    return True
