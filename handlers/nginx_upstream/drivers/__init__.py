"""How servers are set in a balancer that runs: one module a balancer.

A driver looks, and makes what runs equal to what it is given; it must not decide what that is. It is told
which servers an operator took down, and says which it finds so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from handlers.nginx_upstream.servers import Server

UP = "up"


@dataclass(frozen=True, slots=True)
class Running:
    """What a balancer has.

    Attributes:
        states: address -> "up", or what an operator made of it ("down", "drain", "maint").
        epoch: differs once the balancer has forgotten what it was told, if it can say that.
    """

    states: Mapping[str, str]
    epoch: str = ""


class Driver(Protocol):
    """Sets the servers of one upstream.

    Raises:
        TemporaryError: from every method: no answer in time, or one that makes no sense.
        PermanentError: from every method: the balancer refused.
    """

    def look(self, known: Collection[str] | None) -> Running:
        """What it has; `known` are the addresses in use as far as agentd knows, None if it knows nothing."""

    def apply(self, servers: Sequence[Server], down: Mapping[str, str]) -> int:
        """Make what the last look saw equal to this, and look again to verify.

        Args:
            servers: all that there should be.
            down: address -> what an operator made of it.

        Returns:
            How many changes it took.
        """
