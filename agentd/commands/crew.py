"""Deploys to one server: runs the operator's command, then waits until Consul says that the server is well.

The command leads no life of its own: it ends with the rolling, whatever ends that. Each thread asks Consul
over a connection of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Final

from agentd.commands.guarded import GuardedCommand
from agentd.commands.output import span
from agentd.errors import AgentdError, ConsulError
from agentd.fleet.dynamic_upstream import spelled
from agentd.fleet.instances import Instance, call_roll
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions

_NODE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LOOK: Final = 0.5  # seconds between two questions to Consul, and between two looks at `stop`
_STEP: Final = 0.1


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds: for the command, until the server passes, and how long it must have passed."""

    command: float
    passing: float
    settle: float = 0.0


class DeployCrew:
    """A `Crew` of `fleet/rolling.py`.

    Args:
        options: the local Consul agent.
        service: of the servers.
        argv: the command; {address}, {port} and {host} (the node's name) in it are filled in.
        instances: by server, as nginx spells it.
        redirect: have the command write to standard error: our own output is a program's.
        stop: once set, the command is ended and nothing is waited for.
    """

    def __init__(  # noqa: PLR0913 (what a deployment takes; each is named at the call)
        self,
        options: ConsulOptions,
        service: str,
        argv: Sequence[str],
        instances: Mapping[str, Instance],
        *,
        patience: Patience,
        redirect: bool,
        stop: Event,
    ) -> None:
        self._options = options
        self._service = service
        self._argv = [*(("/bin/sh", "-c", 'exec "$0" "$@" >&2') if redirect else ()), *argv]
        self._instances = instances
        self._patience = patience
        self._stop = stop

    def passing(self) -> Iterable[str]:
        """The servers that are passing by the leader's word. Raises ConsulError."""
        with closing(ConsulClient(self._options)) as client:
            return self._passing(client)

    def deploy(self, server: str, waiting: Callable[[], None]) -> str:
        """Run and wait; "" or what went wrong."""
        try:
            reason = self._run(self._instances[server])
            if not reason:
                waiting()
                reason = self._wait(server)
        except AgentdError as error:
            return str(error)
        return reason

    def _run(self, instance: Instance) -> str:
        filled = {"{address}": instance.address, "{port}": str(instance.port), "{host}": instance.node}
        argv = [_filled(word, filled) for word in self._argv]
        ended = Event()
        deadline = time.monotonic() + self._patience.command
        with GuardedCommand(argv, {}, ended.set) as command:
            while not ended.wait(_STEP):
                if self._stop.is_set() or time.monotonic() >= deadline:
                    command.end()
                    late = f"ran longer than {span(self._patience.command)} and was ended"
                    return f"the command {'was interrupted' if self._stop.is_set() else late}"
        return f"the command ended with status {command.status}" if command.status else ""

    def _wait(self, server: str) -> str:
        """Wait until it has passed for as long as it is to. Outages of Consul are waited through."""
        deadline = time.monotonic() + self._patience.passing
        since: float | None = None
        with closing(ConsulClient(self._options)) as client:
            while True:
                now = time.monotonic()
                well = _seen(lambda: server in self._passing(client))
                since = (now if since is None else since) if well else None
                if since is not None and now - since >= self._patience.settle:
                    return ""
                if self._stop.is_set():
                    return "interrupted before Consul said that it is passing"
                if now >= deadline:
                    return f"not passing after {span(self._patience.passing)}"
                self._stop.wait(_LOOK)

    def _passing(self, client: ConsulClient) -> set[str]:
        roll = call_roll(client, self._service, fresh=True)
        return {spelled(one.address, one.port) for one in roll.instances if one.status == "passing"}


def servers_among(instances: Iterable[Instance]) -> dict[str, Instance]:
    """The instances by server, as nginx spells it, in order.

    Raises:
        AgentdError: one is registered by name, so that no load balancer can be spoken to about it, or its
            node's name is not one to put into a command.
    """
    found = {}
    for one in instances:
        if not _NODE.fullmatch(one.node):  # a command might take it for an option, or for more
            raise AgentdError(f"node {one.node!r} has no plain name: rename it")
        try:
            found[spelled(one.address, one.port)] = one
        except ValueError as error:
            raise AgentdError(
                f"{one.address} of node {one.node} is no IP address: register the service by address"
            ) from error
    return found


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _seen(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except ConsulError:
        return False
