"""Patterns of kept names: a name, a prefix of names followed by `*`, or `*` alone."""

from __future__ import annotations

import re
from typing import Final

ANY: Final = "*"
"""At the end of a pattern: any characters, or none."""
FREEZE: Final = "agentd.freeze"
"""The name under which freezes of the fleet are published. Everybody may read why, so it is never sealed."""

_PATTERN: Final = r"\*|[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\*?"


def parse_pattern(text: str) -> str:
    """The pattern in this text.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(_PATTERN, text):
        raise ValueError("must be a name that is kept, the beginning of some followed by *, or * for all")
    return text


def fits(name: str, pattern: str) -> bool:
    """Whether the name matches the pattern."""
    return name.startswith(pattern[:-1]) if pattern.endswith(ANY) else name == pattern


def overlap(one: str, other: str) -> bool:
    """Whether a name can match both patterns."""
    if not one.endswith(ANY):
        return fits(one, other)
    return fits(other.removesuffix(ANY), one) or fits(one[:-1], other)
