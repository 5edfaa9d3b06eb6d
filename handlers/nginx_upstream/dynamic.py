"""The driver for the dynamic-upstream interface, whoever serves it.

The interface lists no backup servers: those are in the file alone, and take effect with the next reload.
New servers are added before old ones are removed, since the last one cannot be.

Some things must not be done to the module ngx_dynamic_upstream while nginx runs, and are left to a reload: to
add an IPv6 address (the worker hangs), and to change anything that is balanced by ip_hash, hash or random
(workers crash, or go on sending to servers that were removed).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from agentd.handler import PermanentError, TemporaryError
from handlers.nginx_upstream.balancing import FIXED
from handlers.nginx_upstream.interface import Desired, UpstreamInterface
from handlers.nginx_upstream.runtime import UP, Applied, Running
from handlers.nginx_upstream.server import Server


class _Step(NamedTuple):
    """One change: of which server, what differed, and the call that sets it right."""

    address: str
    found: str
    call: Callable[[], object]


class DynamicDriver:
    """The driver of one upstream. It keeps a connection only within an attempt: a reload ends the others.

    Args:
        interface: of that upstream.
        module: whether the module ngx_dynamic_upstream serves it, and not Lua.
    """

    least_weight = 1

    def __init__(self, interface: UpstreamInterface, *, module: bool = True) -> None:
        self._interface = interface
        self._module = module
        self._listed: Mapping[str, Server] = {}

    def look(self, known: Collection[str] | None) -> Running:  # noqa: ARG002 (every server listed is in use)
        """List."""
        self._interface.close()
        self._listed = self._list()
        states = {address: "down" if server.down else UP for address, server in self._listed.items()}
        return Running(states, {address: server.weight for address, server in self._listed.items()})

    def reset(self) -> None:
        """Ask again: other workers serve now."""
        self._interface.reset()

    def give_up(self, reason: str) -> None:
        """Ask nothing."""
        self._interface.give_up(reason)

    def compare(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:  # noqa: ARG002 (servers say it)
        """What `apply` would do."""
        steps, left = self._plan(_listable(servers), method)
        return Applied([f"{step.address} {step.found}" for step in steps], left)

    def apply(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:  # noqa: ARG002 (servers say it)
        """Compare, make the changes that may be made, and list again to verify."""
        wanted = _listable(servers)
        steps, left = self._plan(wanted, method)
        try:
            refused = _made(steps)
            if steps:
                self._listed = self._list()
        finally:
            self._interface.close()
        if refused:
            raise PermanentError("; ".join(f"{address}: {reason}" for address, reason in refused.items()))
        wrong = [
            address
            for address in sorted(self._listed.keys() | wanted.keys())
            if address not in left and self._listed.get(address) != wanted.get(address)
        ]
        if steps and wrong:
            raise TemporaryError(
                f"{len(wrong)} servers do not have the values that were set, such as {wrong[0]}"
            )
        return Applied([f"{step.address} {step.found}" for step in steps], left)

    def _plan(self, wanted: Mapping[str, Server], method: str) -> tuple[list[_Step], dict[str, str]]:
        """The changes to make, and what is left to a reload."""
        steps = list(self._steps(wanted))
        left = self._left(steps, wanted, method)
        return [step for step in steps if step.address not in left], left

    def _list(self) -> dict[str, Server]:
        return {address: one for address, one in self._interface.list().items() if not one.backup}

    def _left(self, steps: Sequence[_Step], wanted: Mapping[str, Server], method: str) -> dict[str, str]:
        """Address -> why it must not be changed at run time."""
        if not self._module:
            return {}
        if method in FIXED:
            reason = f"ngx_dynamic_upstream cannot change servers balanced by {method} while nginx runs"
            return {step.address: reason for step in steps}
        reason = "ngx_dynamic_upstream cannot add an IPv6 address while nginx runs (a worker would hang)"
        left = {
            address: reason for address in wanted if address.startswith("[") and address not in self._listed
        }
        if left.keys() == wanted.keys():  # until they serve, the others stay: the last one cannot be removed
            left |= dict.fromkeys(self._listed, "its successors wait for a reload")
        return left

    def _steps(self, wanted: Mapping[str, Server]) -> Iterator[_Step]:
        """The changes, ordered so that no server is missing and none serves that must not."""
        interface, listed = self._interface, self._listed
        both = [(listed[address], server) for address, server in wanted.items() if address in listed]
        down, up = Desired(down=True), Desired(down=False)
        for old, new in both:
            if new.down and not old.down:
                yield _Step(new.address, "was up", partial(interface.update, new.address, down))
        for address in [one for one in wanted if one not in listed]:
            yield _Step(address, "was missing", partial(interface.add, wanted[address]))
        for old, new in both:
            if replace(old, down=new.down) != new:
                yield _Step(new.address, f"was {old.text()}", partial(interface.set, new))
        for old, new in both:
            if old.down and not new.down:
                yield _Step(new.address, "was down", partial(interface.update, new.address, up))
        for address in listed.keys() - wanted.keys():
            yield _Step(address, "was not expected", partial(interface.remove, address))


def _listable(servers: Sequence[Server]) -> dict[str, Server]:
    """Address -> the server, as the interface lists it."""
    return {one.address: replace(one, max_conns=0) for one in servers if not one.backup}


def _made(steps: Sequence[_Step]) -> dict[str, str]:
    """Make the changes; one that is refused does not stop the others. Address -> why it was refused."""
    refused = {}
    for step in steps:
        try:
            step.call()
        except PermanentError as error:
            refused[step.address] = str(error)
        except ValueError as error:  # a name or a socket, which somebody added by hand
            refused[step.address] = f"{error}; remove it by hand"
    return refused
