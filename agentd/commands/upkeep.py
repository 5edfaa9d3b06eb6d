"""What `agentd publish` does for the fleet besides, once its message is written and reported.

Owns that none of it makes publishing fail: what the token may not do, or Consul refuses, is left to others.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agentd.errors import AgentdError
from agentd.fleet.absence import parse_absences
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.rights import demand

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet

_PURPOSE: Final = "cleaning up"


def upkeep(reached: ReachedFleet, *, swept: bool) -> None:
    """Clean up.

    Args:
        reached: the fleet.
        swept: whether to make up for a large payload: delete those that no message needs any more.
    """
    keys = Keys(reached.name)
    if swept:
        with suppress(AgentdError):
            _sweep(reached, keys)
    with suppress(AgentdError):
        _forget_gone(reached, keys)


def _sweep(reached: ReachedFleet, keys: Keys) -> None:
    """Only if all messages can be seen."""
    from agentd.fleet.log import Log  # noqa: PLC0415 (not every message needs it)

    demand(reached.client, "read", [keys.every_message], _PURPOSE)
    Log(ConsulKV(reached.client), keys).sweep()


def _forget_gone(reached: ReachedFleet, keys: Keys) -> None:
    """Once a day, the nodes that Consul has not known for a week."""
    now = time.time()
    pair = ConsulKV(reached.client).pair(keys.absences)
    if pair is not None and not parse_absences(pair.value).is_due(now):
        return
    demand(reached.client, "write", [keys.nodes], _PURPOSE)

    from agentd.fleet.gone import DAYS, Gone  # noqa: PLC0415 (once a day)

    for node in Gone(reached.client, keys).remove(now).forgotten:
        sys.stderr.write(f"agentd: {node} is forgotten: Consul has not known it for {DAYS} days\n")
