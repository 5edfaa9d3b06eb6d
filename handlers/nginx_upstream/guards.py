"""Which servers may leave an upstream now: what is new joins at once, what is gone is judged first.

Nothing in Consul may empty an upstream or take most of it away at once; the operator may. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

EMPTY: Final = "empty"
MIN_SERVERS: Final = "min_servers"
SHARE: Final = "share"
GUARDS: Final = (EMPTY, MIN_SERVERS, SHARE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows.

    Attributes:
        min_servers: fewer than these never remain by a removal.
        max_removed: percent of the servers that may go at once; one may always go.
        grace: seconds for which a server is missing before it goes.
    """

    min_servers: int = 1
    max_removed: int = 50
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the servers that are missing.

    Attributes:
        missing: address -> unix time since which it is missing, for all that stay although they are missing.
        guard: which guard holds them, "" if only the grace does.
        reason: that guard in words.
        due: unix time at which the next of them goes, or None.
    """

    missing: Mapping[str, float] = field(default_factory=dict)
    guard: str = ""
    reason: str = ""
    due: float | None = None


def judge(
    current: Collection[str], wanted: Collection[str], since: Mapping[str, float], now: float, limits: Limits
) -> Verdict:
    """Judge the removal of what is in `current` (addresses in use) and not in `wanted` (those fit now).

    Args:
        current: the addresses in use now.
        wanted: the addresses that are fit.
        since: address -> unix time since which it is known to be missing.
        now: unix time.
        limits: the operator's.
    """
    missing = {address: since.get(address, now) for address in current if address not in wanted}
    if not missing:
        return Verdict()
    guard, reason = _guard(len(missing), len(set(current)), len(set(wanted)), limits)
    if guard:
        return Verdict(missing, guard, reason)
    stay = {address: at for address, at in missing.items() if at + limits.grace > now}
    return Verdict(stay, due=min(stay.values()) + limits.grace if stay else None)


def _guard(missing: int, current: int, wanted: int, limits: Limits) -> tuple[str, str]:
    """The first guard that speaks against the removal, and why; ("", "") if none does."""
    if wanted < limits.min_servers:
        if wanted == 0:
            return EMPTY, f"no server is fit: the last {missing} that were stay"
        return MIN_SERVERS, (
            f"{wanted} servers are fit, and min_servers is {limits.min_servers}: the {missing} others stay"
        )
    if missing > max(1, current * limits.max_removed // 100):
        return SHARE, (
            f"{missing} of {current} servers went at once, more than max_removed ({limits.max_removed} %):"
            " they stay"
        )
    return "", ""
