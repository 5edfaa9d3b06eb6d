"""The items of a query's last answer, so that the next one costs only what differs in it.

Of a service with 1,000 instances mostly one has changed. An item whose bytes were there before is not parsed,
judged and written anew. What cannot be cut into items that are all sound is left to `parsing`, which reads
the whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.watch.changes import Json, canonical
from agentd.watch.parsing import NEVER_TOO_HEAVY, Parsed, parse

_HEAD: Final = re.compile(rb'\[(\{"[A-Za-z]+":["{\[]?)')
_END: Final = b"}]"


@dataclass(frozen=True, slots=True)
class Sound:
    """A list of which every item can be used, as canonical JSON."""

    text: str


class KnownItems:
    """Reads the answers to one query, one after the other, from one thread.

    Args:
        misfit: why an item cannot be used, "" if it can.
        made: the item as the query's state has it.
    """

    def __init__(self, misfit: Callable[[Json], str], made: Callable[[Json], Json]) -> None:
        self._misfit = misfit
        self._made = made
        self._texts: dict[bytes, str] = {}

    def read(self, body: bytes) -> Parsed:
        """As `parse` does, but the value is `Sound` if nothing is left out.

        Raises:
            ValueError: as `parse` does.
        """
        pieces = _pieces(body)
        texts = [self._texts.get(piece) or self._text(piece) for piece in pieces]
        if not texts or "" in texts:
            self._texts = {}
            return parse(body)
        self._texts = dict(zip(pieces, texts, strict=True))
        return Parsed(Sound(f"[{','.join(texts)}]"))

    def _text(self, piece: bytes) -> str:
        """The canonical JSON of an item; "" if it is none that can be used."""
        try:
            found = parse(piece)
        except ValueError:
            return ""
        if found.odd or not isinstance(found.value, dict) or self._misfit(found.value):
            return ""
        return canonical(self._made(found.value))


def _pieces(body: bytes) -> list[bytes]:
    """Cut a list where its items seem to end; none if it is too large, or another kind of answer.

    Within a text, no quote follows a bracket. In a list within an item the cut is wrong, and the piece is not
    JSON. If each is an object by itself, they are the items.
    """
    head = _HEAD.match(body)
    if not head or not body.endswith(_END) or len(body) > NEVER_TOO_HEAVY:
        return []
    first, *others = body[1:-1].split(b"}," + head[1])
    pieces = [first, *(head[1] + other for other in others)]
    return [*(piece + b"}" for piece in pieces[:-1]), pieces[-1]]
