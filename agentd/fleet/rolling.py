"""One server (or batch) after the other: down everywhere, deploy, up everywhere, next.

Owns the order, the limits, and that every server which was taken down is put back or named. What is in hand
is recorded before it is touched, so that another process can go on after any crash. Deploying itself, and the
question whether a server is well, are the crew's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event
from typing import Final, Literal, Protocol

from agentd.fleet.balancers import Balancers, Change, Result
from agentd.fleet.dynamic_upstream import Wish
from agentd.fleet.rolling_record import Record

Step = Literal["taking down", "deploying", "waiting", "putting up", "done", "put back", "failed"]
_WHOLE: Final = 100


@dataclass(frozen=True, slots=True)
class Batch:
    """How many servers at a time: a number, or a share of all."""

    number: int
    percent: bool = False

    def of(self, total: int) -> int:
        """At least one; a share is rounded down."""
        return max(1, math.floor(total * self.number / _WHOLE) if self.percent else self.number)


def parse_batch(text: str) -> Batch:
    """Take "3" or "25%". Raises ValueError."""
    digits = text.removesuffix("%")
    percent = digits != text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):  # noqa: PLR2004 (more than any fleet)
        raise ValueError("a number of servers or a share is needed, such as 3 or 25%")
    if int(digits) == 0 or (percent and int(digits) > _WHOLE):
        raise ValueError("from 1 on, or from 1% to 100%")
    return Batch(int(digits), percent)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rolling keeps to.

    Attributes:
        batch: servers at a time.
        max_failures: servers that may fail before it stops.
        min_servers: servers that are always left, up on each balancer and passing in Consul.
    """

    batch: Batch = Batch(1)
    max_failures: int = 0
    min_servers: int = 1


class Crew(Protocol):
    """Who works on the servers that are down."""

    def passing(self) -> Iterable[str]:
        """The servers that are well by Consul's word. Raises ConsulError."""

    def deploy(self, server: str, waiting: Callable[[], None]) -> str:
        """Run the command, call `waiting`, wait until the server is well; "" or what went wrong.

        From several threads for several servers.
        """


class Rolling:
    """One rolling; `run` returns when all is done or no more is to be done.

    Args:
        servers: in order, as nginx spells them.
        balancers: without a `stop` of their own: what was begun is brought to its end.
        crew: deploys.
        save: keeps the record; raises if the lock was lost.
        tell: called with each step, from several threads.
        stop: once set, no server is begun any more.

    Attributes:
        record: how far it has come.
        reasons: why each server failed that did; "" for the whole.
    """

    def __init__(  # noqa: PLR0913 (who takes part; each is named at the call)
        self,
        servers: Sequence[str],
        limits: Limits,
        balancers: Balancers,
        crew: Crew,
        *,
        save: Callable[[Record], None],
        tell: Callable[[str, Step, str], None],
        stop: Event,
    ) -> None:
        self.servers = tuple(servers)
        self.reasons: dict[str, str] = {}
        self._limits = limits
        self._balancers = balancers
        self._crew = crew
        self._save = save
        self._tell = tell
        self._stop = stop
        self.record = Record("", "")

    def run(self, record: Record) -> Record:
        """Begin, or go on from a record; failed servers are tried again, those in hand come first.

        Raises:
            AgentdError: the record cannot be kept, or Consul does not say who is well.
        """
        self.record = replace(record, failed=())
        todo = [server for server in self.servers if server not in record.done]
        todo.sort(key=lambda server: server not in record.in_hand)
        size = self._limits.batch.of(len(self.servers))
        while todo and not self._stop.is_set() and len(self.record.failed) <= self._limits.max_failures:
            batch, todo = todo[:size], todo[size:]
            if reason := self._too_few(batch):
                self.reasons[""] = reason
                break
            self._roll(batch)
        return self.record

    def _too_few(self, batch: Sequence[str]) -> str:
        """Why a batch must not be begun, by Consul's word; the balancers say their own when it is."""
        away = {*batch, *self.record.in_hand}
        left = sum(server not in away for server in self._crew.passing())
        if left >= self._limits.min_servers:
            return ""
        return f"only {left} other servers are passing, and {self._limits.min_servers} must be left"

    def _roll(self, batch: Sequence[str]) -> None:
        left_down = self._found_down(batch)
        self._keep([server for server in batch if server not in left_down])
        taken = [server for server in batch if self._take_down(server)]
        if self._stop.is_set():
            for server in taken:
                self._put_up(server, "put back")
        elif taken:
            with ThreadPoolExecutor(len(taken), "deploy") as threads:
                reasons = list(threads.map(self._deploy, taken))
            for server, reason in zip(taken, reasons, strict=True):
                self._finish(server, reason, found_down=server in left_down)
        self._keep()

    def _deploy(self, server: str) -> str:
        self._tell(server, "deploying", "")
        return self._crew.deploy(server, lambda: self._tell(server, "waiting", ""))

    def _finish(self, server: str, reason: str, *, found_down: bool) -> None:
        if reason:
            self._fail(server, f"{reason}; it is left down")
        elif found_down or self._put_up(server, "putting up"):
            self.record = replace(self.record, done=(*self.record.done, server))
            self._tell(server, "done", "found down, and left so" if found_down else "")

    def _found_down(self, batch: Sequence[str]) -> set[str]:
        """Those that someone took down everywhere before us, and that stay so."""
        listings = self._balancers.look()
        found = {server: [listing.find(server) for listing in listings] for server in batch}
        return {
            server
            for server, peers in found.items()
            if server not in self.record.in_hand and all(peer is not None and peer.down for peer in peers)
        }

    def _take_down(self, server: str) -> bool:
        if self._stop.is_set():
            self._release(server)
            return False
        self._tell(server, "taking down", "")
        results = self._balancers.change(Change(server, Wish(down=True), self._limits.min_servers))
        if reason := _reason(results):
            if all(one.outcome != "failed" or not one.asked for one in results):
                self._release(server)
            self._fail(server, f"not taken down: {reason}")
        return not reason

    def _put_up(self, server: str, step: Step) -> bool:
        if server not in self.record.in_hand:
            return True
        self._tell(server, step, "")
        results = self._balancers.change(Change(server, Wish(down=False)), keep_going=True)
        if reason := _reason(results):
            self._fail(server, f"not put up on all: {reason}")
            return False
        self._release(server)
        return True

    def _fail(self, server: str, reason: str) -> None:
        self.reasons[server] = reason
        self.record = replace(self.record, failed=(*self.record.failed, server))
        self._tell(server, "failed", reason)

    def _release(self, server: str) -> None:
        kept = tuple(one for one in self.record.in_hand if one != server)
        self.record = replace(self.record, in_hand=kept)

    def _keep(self, added: Sequence[str] = ()) -> None:
        self.record = replace(self.record, in_hand=tuple(dict.fromkeys([*self.record.in_hand, *added])))
        self._save(self.record)


def _reason(results: Sequence[Result]) -> str:
    """Which balancers failed and why, in one line; "" if none did."""
    return "; ".join(f"{one.balancer}: {one.error}" for one in results if one.error)
