"""Whether a fleet is frozen at the moment, for commands to which that is of interest only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.commands.signing import read_trust
from agentd.errors import ConfigError, ConsulRefused, FleetError
from agentd.fleet.freeze import Freeze, read_freeze
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet


def read_now(reached: ReachedFleet, now: float) -> tuple[Freeze | None, list[str]]:
    """The freeze that holds at `now`, in unix seconds; or why that cannot be told.

    Raises:
        ConsulUnavailable: there is no answer.
    """
    try:
        reader = Reader(ConsulKV(reached.client), Keys(reached.name))
        found = read_freeze(reader, read_trust(reached).admit)
    except (ConfigError, ConsulRefused, FleetError) as error:
        return None, [f"cannot tell whether the fleet is frozen: {error}"]
    return (found if found and found.holds(now) else None), []
