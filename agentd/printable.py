"""Text that an outsider may have chosen, as it may be shown: no character of it steers a terminal, or hides.

Owns what is escaped: control characters (C0, C1, DEL), those that change the direction of a line (U+202E and
the like), other format characters (such as zero-width spaces), line separators, lone surrogates. Pure,
and quick to import.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_PERHAPS: Final = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """The text with every such character escaped as Python would."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: Any, *, indent: int | None = None) -> str:  # noqa: ANN401 (any JSON)
    """The value as JSON in which every such character is escaped, and no other is."""
    return _PERHAPS.sub(_json_escaped, json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]
