"""What is done to the nodes while keys are rotated: each fault begins, lasts, and is cleared."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what happens.
        begin: makes it happen.
        clear: puts it right; returns once what was down is up.
        spared: the Consul agents that answer meanwhile.
    """

    name: str
    begin: Callable[[], object]
    clear: Callable[[], object]
    spared: Sequence[ConsulAgent]


def of_nodes(nodes: Sequence[Node]) -> Iterator[Fault]:
    """One of each kind, each on the next node, again and again."""
    agents = [node.consul for node in nodes]
    at = 0
    while True:
        for make in (_daemon_stopped, _daemon_killed, _agent_frozen, _agent_killed, _frozen):
            node = nodes[at % len(nodes)]
            at += 1
            yield make(node, [one for one in agents if one is not node.consul])
        yield _leader_lost(agents)


def _daemon_stopped(node: Node, spared: Sequence[ConsulAgent]) -> Fault:
    process = node.agentd.process
    return Fault(
        f"agentd of {node.name} stopped by a signal",
        lambda: process.send(signal.SIGSTOP),
        lambda: process.send(signal.SIGCONT),
        [*spared, node.consul],
    )


def _daemon_killed(node: Node, spared: Sequence[ConsulAgent]) -> Fault:
    return Fault(f"agentd of {node.name} killed", node.agentd.kill, node.agentd.start, [*spared, node.consul])


def _agent_frozen(node: Node, spared: Sequence[ConsulAgent]) -> Fault:
    return Fault(f"Consul agent of {node.name} frozen", node.consul.freeze, node.consul.thaw, spared)


def _agent_killed(node: Node, spared: Sequence[ConsulAgent]) -> Fault:
    return Fault(f"Consul agent of {node.name} killed", node.consul.kill, node.consul.start, spared)


def _frozen(node: Node, spared: Sequence[ConsulAgent]) -> Fault:
    """The whole machine, as far as anybody can see."""
    stopped: list[int] = []

    def freeze() -> None:
        nginx = node.nginx
        stopped[:] = [
            node.agentd.process.pid,
            node.consul.process.pid,
            nginx.master,
            *nginx.workers(),
            *nginx.draining(),
        ]
        _send(stopped, signal.SIGSTOP)

    return Fault(f"{node.name} frozen", freeze, lambda: _send(stopped, signal.SIGCONT), spared)


def _leader_lost(agents: Sequence[ConsulAgent]) -> Fault:
    lost: list[ConsulAgent] = []

    def kill() -> None:
        lost[:] = [leader_of(agents)]
        lost[0].kill()

    def start() -> None:
        lost[0].start()

    return Fault("the leader killed", kill, start, agents)


def leader_of(agents: Sequence[ConsulAgent]) -> ConsulAgent:
    """The agent that leads the servers."""
    led = str(agents[-1].get("/v1/status/leader"))
    return next(one for one in agents if led == f"{one.address}:{one.ports['server']}")


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
