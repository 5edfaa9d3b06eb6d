"""Whether a fleet is frozen at the moment, for commands to which that is of interest only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.commands.signing import read_trust
from agentd.errors import ConfigError
from agentd.fleet.freeze import Freeze, freeze_now, untold
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
        trusted = read_trust(reached)
    except ConfigError as error:
        return None, [untold(error)]
    return freeze_now(Reader(ConsulKV(reached.client), Keys(reached.name)), trusted.admit, now)
