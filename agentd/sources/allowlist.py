"""Which locations a change may name: those below a prefix of `sources.allow`, and no others.

It compares normalised locations (`reference.py`) by whole path segments. It must not open anything: whether
a path on disk leads out through a symbolic link is for `local_file.py` to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentd.errors import PermanentError
from agentd.sources.reference import Location, parse_location


@dataclass(frozen=True, slots=True)
class Allowlist:
    """The prefixes; without any, nothing is allowed."""

    prefixes: tuple[Location, ...]

    @classmethod
    def of(cls, allow: Iterable[str]) -> Allowlist:
        """Parse `sources.allow`.

        Raises:
            ValueError: one of them is not a location.
        """
        return cls(tuple(parse_location(text) for text in allow))

    def check(self, location: Location) -> tuple[Location, ...]:
        """Return the prefixes that the location is below.

        Raises:
            PermanentError: it is below none.
        """
        found = tuple(prefix for prefix in self.prefixes if covers(prefix, location))
        if not found:
            raise PermanentError(f"{location} is not allowed: add it, or a prefix of it, to sources.allow")
        return found


def covers(prefix: Location, location: Location) -> bool:
    """Whether a location is the prefix itself or is below it.

    `https://h/a` covers `https://h/a` and `https://h/a/b`, not `https://h/ab`; `https://h/a/` covers only
    what is below.
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
