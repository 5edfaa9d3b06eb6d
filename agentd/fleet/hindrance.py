"""Completes what a node has to acknowledge: why it does not go on with a name, and which freeze counts here.

The journal knows what was done; that somebody paused a handler or froze the fleet, and why the log is not
read on, others know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agentd.fleet.acknowledgement import Name, Tried
from agentd.fleet.condition import Condition
from agentd.fleet.followed_freeze import FollowedFreeze
from agentd.fleet.kept_name import Kept, NameStatus
from agentd.journal.pauses import Paused


def hindered(
    condition: Condition,
    kept: Mapping[str, Kept],
    statuses: Mapping[str, NameStatus],
    pause_of: Callable[[str], Paused | None],
    freeze: FollowedFreeze,
) -> Condition:
    """The condition with what keeps the node from going on.

    Args:
        condition: as the journal and the handlers tell it.
        kept: the kept names.
        statuses: how far the log of each was read.
        pause_of: returns the pause of a handler; None if it takes what comes.
        freeze: which names it holds back.
    """
    paused = {name: str(found) for name in condition.handlers if (found := pause_of(name))}
    names: dict[str, Name] = {}
    for name, one in condition.names.items():
        pauses = [f"{taker} is {paused[taker]}" for taker in kept[name].handlers if taker in paused]
        frozen = freeze.holds(name)
        waits = (statuses[name].waits if name in statuses else "") or frozen
        names[name] = replace(one, waits=next(iter(pauses), waits), held=bool(pauses or frozen))
    if freeze.freeze is not None:
        num = freeze.freeze.num
        names[freeze.name] = Name(live=num, tried=Tried(num, "applied"), waits=freeze.status.waits)
    told = "; ".join(f"{name} is {text}" for name, text in paused.items())
    return replace(condition, names=names, paused=told)
