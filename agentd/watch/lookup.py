"""Asks Consul once, for a caller that needs an answer now rather than its changes.

Owns telling an empty list that means "none" from one that means "the token may not see them".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from agentd.errors import ConsulRefused
from agentd.watch.changes import Instance, KeyState, ServiceState
from agentd.watch.client import ConsulClient
from agentd.watch.judgement import Inquiry
from agentd.watch.options import ConsulOptions
from agentd.watch.parsing import Odd
from agentd.watch.queries import KeyQuery, ServiceQuery
from agentd.watch.query import Source


@dataclass(frozen=True, slots=True)
class Instances:
    """All instances of a service.

    Attributes:
        every: whatever their status, sorted by address.
        filtered: Consul says that it left some out because the token lacks a right.
        odd: what else Consul has of it, and cannot be used.
    """

    every: tuple[Instance, ...]
    filtered: bool
    odd: tuple[Odd, ...] = ()


def find_instances(source: Source, service: str, *, fresh: bool = False) -> Instances:
    """Ask for them once; `fresh` asks the leader, whatever the options allow.

    Raises:
        ConsulRefused: the token may not see whether there is one.
        ConsulUnavailable: no answer, or one that is not Consul's.
    """
    query = ServiceQuery(service, passing=False)
    snapshot = query.fetch(source, fresh=fresh)
    if snapshot.empty:
        # An empty list is also what a token without the right gets.
        refusal = Inquiry(query, source, lambda: None).refusal()
        if refusal:
            raise ConsulRefused(f"Consul shows no instance of {service!r}: {refusal}")
    every = ServiceState(snapshot.query, snapshot.changes[0].raw).instances
    return Instances(every, snapshot.answer.filtered_by_acls, tuple(snapshot.odd))


def key_reader(options: ConsulOptions) -> Callable[[str], bytes | None]:
    """Return a function that reads one key, each time over a new connection.

    It returns the value, or None if there is no such key, and raises ConsulUnavailable or ConsulRefused.
    """

    def read(path: str) -> bytes | None:
        with closing(ConsulClient(options)) as client:
            (state,) = KeyQuery(path).fetch(client).changes
        return state.value if isinstance(state, KeyState) else None

    return read
