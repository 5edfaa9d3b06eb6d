"""Which locations a change may name: those below a prefix of `sources.allow`, and no others.

It compares locations that `agentd.reference` has brought into one spelling, whole segment by whole segment.
It must not open anything: that a path on disk does not lead out by a symbolic link is for `local.py` to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentd.errors import PermanentError
from agentd.reference import Location, parse_location


@dataclass(frozen=True, slots=True)
class Fence:
    """The prefixes. An empty fence lets nothing pass."""

    prefixes: tuple[Location, ...]

    @classmethod
    def of(cls, allow: Iterable[str]) -> Fence:
        """Parse `sources.allow`.

        Raises:
            ValueError: one of them is no location.
        """
        return cls(tuple(parse_location(text) for text in allow))

    def check(self, location: Location) -> tuple[Location, ...]:
        """Return the prefixes that the location lies below.

        Raises:
            PermanentError: it lies below none.
        """
        found = tuple(prefix for prefix in self.prefixes if covers(prefix, location))
        if not found:
            raise PermanentError(
                f"{location} is not allowed: add it, or what it lies below, to sources.allow"
            )
        return found


def covers(prefix: Location, location: Location) -> bool:
    """Whether a location is the prefix itself or lies below it.

    `https://h/a` covers `https://h/a` and `https://h/a/b`, not `https://h/ab`; `https://h/a/` covers only
    what lies below.
    """
    if (prefix.scheme, prefix.authority) != (location.scheme, location.authority):
        return False
    wanted, found = prefix.segments, location.segments
    if wanted and not wanted[-1]:
        return (
            found[: len(wanted) - 1] == wanted[:-1]
            and len(found) >= len(wanted)
            and bool(found[len(wanted) - 1])
        )
    return found[: len(wanted)] == wanted
