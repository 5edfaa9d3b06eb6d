"""Deploys to one server: runs the operator's command, then waits until the server is healthy in Consul.

The command does not outlive the deployment, however that ends. Each thread asks Consul over a connection of
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Final

from agentd import command
from agentd.command import AgentdError, ConsulError, span
from handlers.nginx_upstream.hosts import parse_host
from handlers.nginx_upstream.server import join_address

if TYPE_CHECKING:
    from agentd.command import ConsulClient, ConsulOptions, Instance

_CONSUL_POLL: Final = 0.5  # seconds
_STOP_POLL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds: for the command, until the server passes, and how long it must stay healthy."""

    command: float
    passing: float
    settle: float = 0.0


class CommandDeployer:
    """Runs a command for each server.

    Args:
        options: the local Consul agent.
        service: of the servers.
        argv: the command; {address}, {port} and {host} (the node's name) in it are filled in.
        instances: by server, as nginx writes it.
        timing: how long each step may take.
        port: name of the servers' port; "" for the default one.
        redirect: have the command write to standard error, because our own output is for a program.
        stop: once set, the command is ended and nothing is waited for.
    """

    def __init__(  # noqa: PLR0913 (what a deployment takes; each is named at the call)
        self,
        options: ConsulOptions,
        service: str,
        argv: Sequence[str],
        instances: Mapping[str, Instance],
        *,
        timing: Timing,
        port: str = "",
        redirect: bool,
        stop: Event,
    ) -> None:
        self._options = options
        self._service = service
        self._argv = [*(("/bin/sh", "-c", 'exec "$0" "$@" >&2') if redirect else ()), *argv]
        self._instances = instances
        self._timing = timing
        self._port = port
        self._stop = stop

    def passing(self) -> Iterable[str]:
        """The servers that are passing, by the leader's answer. Raises ConsulError."""
        with closing(command.ConsulClient(self._options)) as client:
            return self._passing(client)

    def deploy(self, server: str, waiting: Callable[[], None]) -> str:
        """Run, call `waiting`, wait until the server is healthy; return "" or what went wrong.

        Called from several threads, for several servers.
        """
        try:
            reason = self._run(self._instances[server])
            if not reason:
                waiting()
                reason = self._wait(server)
        except AgentdError as error:
            return str(error)
        return reason

    def _run(self, instance: Instance) -> str:
        values = {
            "{address}": str(parse_host(instance.address)),
            "{port}": str(instance.port_named(self._port)),
            "{host}": instance.node,
        }
        argv = [_filled(word, values) for word in self._argv]
        ended = Event()
        deadline = time.monotonic() + self._timing.command
        with command.Child(argv, {}, ended.set) as child:
            while not ended.wait(_STOP_POLL):
                if self._stop.is_set() or time.monotonic() >= deadline:
                    child.end()
                    late = f"ran longer than {span(self._timing.command)} and was ended"
                    return f"the command {'was interrupted' if self._stop.is_set() else late}"
        return f"the command ended with status {child.status}" if child.status else ""

    def _wait(self, server: str) -> str:
        """Wait until it has been passing for long enough; outages of Consul are waited out."""
        deadline = time.monotonic() + self._timing.passing
        since: float | None = None
        with closing(command.ConsulClient(self._options)) as client:
            while True:
                now = time.monotonic()
                since = (now if since is None else since) if self._passes(server, client) else None
                if since is not None and now - since >= self._timing.settle:
                    return ""
                if self._stop.is_set():
                    return "interrupted before Consul reported it as passing"
                if now >= deadline:
                    return f"not passing after {span(self._timing.passing)}"
                self._stop.wait(_CONSUL_POLL)

    def _passes(self, server: str, client: ConsulClient) -> bool:
        try:
            return server in self._passing(client)
        except ConsulError:
            return False

    def _passing(self, client: ConsulClient) -> set[str]:
        instances = command.find_instances(client, self._service, fresh=True)
        return {_server(one, self._port) for one in instances.every if one.status == "passing"} - {""}


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _server(instance: Instance, port: str) -> str:
    """The server as nginx writes it; "" for an instance that cannot be one."""
    try:
        return join_address(instance.address, instance.port_named(port))
    except ValueError:
        return ""
