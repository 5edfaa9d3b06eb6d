"""A rolling deployment: one batch of servers after the other is taken down, deployed to, and put back up.

Owns the order, the limits, and that every server that was taken down is put back up or named. What is taken
down is recorded first, so that another process can resume after any crash. How a server is deployed to, and
whether it is healthy, is the deployer's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event
from typing import Final, Literal

from handlers.nginx_upstream.commands.balancers import Balancers, Result, Update
from handlers.nginx_upstream.commands.deployer import CommandDeployer
from handlers.nginx_upstream.commands.record import Record
from handlers.nginx_upstream.interface import Desired

Step = Literal["taking down", "deploying", "waiting", "putting up", "done", "put back", "failed"]
_WHOLE: Final = 100


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Servers per batch: a number, or a percentage of all."""

    number: int
    percent: bool = False

    def of(self, total: int) -> int:
        """At least one; a percentage is rounded down."""
        return max(1, math.floor(total * self.number / _WHOLE) if self.percent else self.number)


def parse_batch_size(text: str) -> BatchSize:
    """Parse "3" or "25%". Raises ValueError."""
    digits = text.removesuffix("%")
    percent = digits != text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):  # noqa: PLR2004 (more than any fleet)
        raise ValueError("give a number or a percentage of servers, such as 3 or 25%")
    if int(digits) == 0 or (percent and int(digits) > _WHOLE):
        raise ValueError("give 1 or more, or from 1% to 100%")
    return BatchSize(int(digits), percent)


@dataclass(frozen=True, slots=True)
class DeploymentLimits:
    """What a rolling deployment keeps to.

    Attributes:
        batch: servers per batch.
        max_failures: servers that may fail before it stops.
        min_servers: servers that always stay up on each load balancer, and passing in Consul.
    """

    batch: BatchSize = BatchSize(1)
    max_failures: int = 0
    min_servers: int = 1


class RollingDeployment:
    """One rolling deployment; `run` returns when all is done or no more can be.

    Args:
        servers: in order, as nginx writes them.
        balancers: without a `stop`: a change that was started is brought to its end.
        deployer: works on the servers that are down.
        save: keeps the record; raises if the lock was lost.
        report: called with each step, from several threads.
        stop: once set, no further server is started.

    Attributes:
        record: how far it has come.
        reasons: server -> why it failed; "" -> why the whole stopped.
    """

    def __init__(  # noqa: PLR0913 (all that take part; each is named at the call)
        self,
        servers: Sequence[str],
        limits: DeploymentLimits,
        balancers: Balancers,
        deployer: CommandDeployer,
        *,
        save: Callable[[Record], None],
        report: Callable[[str, Step, str], None],
        stop: Event,
    ) -> None:
        self.servers = tuple(servers)
        self.reasons: dict[str, str] = {}
        self._limits = limits
        self._balancers = balancers
        self._deployer = deployer
        self._save = save
        self._report = report
        self._stop = stop
        self.record = Record("", "")

    def run(self, record: Record) -> Record:
        """Begin, or resume from a record: failed servers are tried again, those taken down come first.

        Raises:
            AgentdError: the record cannot be kept, or Consul does not say which servers are healthy.
        """
        self.record = replace(record, failed=())
        todo = [server for server in self.servers if server not in record.done]
        todo.sort(key=lambda server: server not in record.taken_down)
        size = self._limits.batch.of(len(self.servers))
        while todo and not self._stop.is_set() and len(self.record.failed) <= self._limits.max_failures:
            batch, todo = todo[:size], todo[size:]
            if reason := self._too_few_passing(batch):
                self.reasons[""] = reason
                break
            self._roll(batch)
        return self.record

    def _too_few_passing(self, batch: Sequence[str]) -> str:
        """Why a batch must not be started, going by Consul; the load balancers are asked when it is."""
        away = {*batch, *self.record.taken_down}
        left = sum(server not in away for server in self._deployer.passing())
        if left >= self._limits.min_servers:
            return ""
        return f"only {left} other servers are passing, and min_servers is {self._limits.min_servers}"

    def _roll(self, batch: Sequence[str]) -> None:
        found_down = self._found_down(batch)
        self._keep([server for server in batch if server not in found_down])
        taken = [server for server in batch if self._take_down(server)]
        if self._stop.is_set():
            for server in taken:
                self._put_up(server, "put back")
        elif taken:
            with ThreadPoolExecutor(len(taken), "deploy") as threads:
                reasons = list(threads.map(self._deploy, taken))
            for server, reason in zip(taken, reasons, strict=True):
                self._finish(server, reason, found_down=server in found_down)
        self._keep()

    def _deploy(self, server: str) -> str:
        self._report(server, "deploying", "")
        return self._deployer.deploy(server, lambda: self._report(server, "waiting", ""))

    def _finish(self, server: str, reason: str, *, found_down: bool) -> None:
        if reason:
            self._fail(server, f"{reason}; it is left down")
        elif found_down or self._put_up(server, "putting up"):
            self.record = replace(self.record, done=(*self.record.done, server))
            self._report(server, "done", "it was down before, and is left down" if found_down else "")

    def _found_down(self, batch: Sequence[str]) -> set[str]:
        """Those that somebody else had taken down everywhere, and that stay down."""
        listings = self._balancers.look()
        found = {server: [listing.servers.get(server) for listing in listings] for server in batch}
        return {
            server
            for server, listed in found.items()
            if server not in self.record.taken_down and all(one is not None and one.down for one in listed)
        }

    def _take_down(self, server: str) -> bool:
        if self._stop.is_set():
            self._release(server)
            return False
        self._report(server, "taking down", "")
        results = self._balancers.change(Update(server, Desired(down=True), self._limits.min_servers))
        if reason := _reason(results):
            if all(one.outcome != "failed" or not one.asked for one in results):
                self._release(server)
            self._fail(server, f"not taken down: {reason}")
        return not reason

    def _put_up(self, server: str, step: Step) -> bool:
        if server not in self.record.taken_down:
            return True
        self._report(server, step, "")
        results = self._balancers.change(Update(server, Desired(down=False)), keep_going=True)
        if reason := _reason(results):
            self._fail(server, f"not put back up everywhere: {reason}")
            return False
        self._release(server)
        return True

    def _fail(self, server: str, reason: str) -> None:
        self.reasons[server] = reason
        self.record = replace(self.record, failed=(*self.record.failed, server))
        self._report(server, "failed", reason)

    def _release(self, server: str) -> None:
        kept = tuple(one for one in self.record.taken_down if one != server)
        self.record = replace(self.record, taken_down=kept)

    def _keep(self, added: Sequence[str] = ()) -> None:
        taken_down = tuple(dict.fromkeys([*self.record.taken_down, *added]))
        self.record = replace(self.record, taken_down=taken_down)
        self._save(self.record)


def _reason(results: Sequence[Result]) -> str:
    """Which load balancers failed and why, in one line; "" if none did."""
    return "; ".join(f"{one.balancer}: {one.error}" for one in results if one.error)
