"""An answer of Consul as JSON: its items one by one, so that one that cannot be read costs only itself.

Owns what parsing may take. What an item costs is estimated before it is parsed: 24 MB of `[]` would need
500 MB, and a list nested 10,000 deep ends in a RecursionError. What an item means is up to `shapes`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

DEEPEST: Final = 32
"""Levels of nesting within an item; Consul's own have 4."""
HEAVIEST_ITEM: Final = 32 * 2**20
"""Bytes of memory that the structure of one item may take; the text in it comes on top."""
HEAVIEST: Final = 256 * 2**20
"""Bytes of memory that all items may take together."""

NOT_AN_OBJECT: Final = "not an object"
NOT_JSON: Final = "not JSON"
TOO_DEEP: Final = "nested too deeply"
TOO_LARGE: Final = "too large"

_SMALL: Final = 8 * 2**20  # bytes of an answer that may be parsed in one go, if it is as it should be
_LIST, _OBJECT, _QUOTE = b'[{"'
_TEXT: Final = re.compile(rb'"[^"]*"')
_ALIKE: Final = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b'[]{}"'))
# A text, a list or object without any text or further level in it, or the begin or end of one. Linear, and
# without memory: nothing repeated has an alternative in it.
_TOKEN: Final = re.compile(rb'"[^"]*"|[\[{][^"\[\]{}]*[\]}]|[\[\]{}]')
_TWICE: Final = "a name is there twice"
_BETWEEN: Final = b" \t\r\n,"  # items of a list
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# What CPython takes for each, on 64 bits: a value in a list or object, an empty list, an object with a name.
_VALUE, _EMPTY_LIST, _SMALL_OBJECT = 60, 60, 230
_HEAVIEST_BYTE: Final = 100  # what a byte of JSON can stand for; most in "{},"
NEVER_TOO_HEAVY: Final = HEAVIEST // _HEAVIEST_BYTE
"""Bytes of an answer that takes less than `HEAVIEST`, whatever is in it."""


class TooHeavyError(ValueError):
    """What was answered would take too much memory."""


class Odd(NamedTuple):
    """An item of an answer that cannot be used.

    Attributes:
        id: the same for the same item.
        reason: one of a few constant texts; a field's name stands for "has no usable one".
        name: what it calls itself, if it does.
        time: the Lamport time of an event, 0 if it has none.
    """

    id: str
    reason: str
    name: str = ""
    time: int = 0


@dataclass(slots=True)
class Parsed:
    """An answer.

    Attributes:
        value: any JSON; of a list or an object what could be read.
        odd: the other items; those that are no objects count as one.
    """

    value: Any
    odd: list[Odd] = field(default_factory=list)


def parse(body: bytes) -> Parsed:
    """Parse an answer.

    Raises:
        ValueError: it is not JSON, or would take more memory than `HEAVIEST`.
    """
    if len(body) <= _SMALL and _is_plain(_masked(body)):
        with suppress(ValueError):
            return Parsed(_loads(body))
    return by_item(body)


def by_item(body: bytes) -> Parsed:
    """The same, without the attempt to parse all in one go, which is quicker."""
    masked = _masked(body)
    first = masked.lstrip()[:1]
    if first == b"[":
        items: list[Any] = []
        return Parsed(items, _collect(body, masked, items.extend, b"[]"))
    if first == b"{":
        values: dict[str, Any] = {}

        def add(more: dict[str, Any]) -> None:
            if not values.keys().isdisjoint(more):
                raise ValueError(_TWICE)
            values.update(more)

        return Parsed(values, _collect(body, masked, add, b"{}"))
    raise ValueError("it is neither a list nor an object, nor a plain value")


def _masked(body: bytes) -> bytes:
    """Of equal length, without escapes: what is between two quotes is a text."""
    return body.replace(rb"\\", b"__").replace(rb"\"", b"__") if b"\\" in body else body


def _is_plain(masked: bytes) -> bool:
    """Whether no item can be too deep or too large, as of nearly every answer of a real agent."""
    if (
        len(masked) * _HEAVIEST_BYTE > HEAVIEST_ITEM
        and _weight(masked, _Part(0, len(masked))) > HEAVIEST_ITEM
    ):
        return False
    # Two quotes with no bracket between them tell nothing, whether they enclose a text or are between two.
    brackets = masked.translate(_ALIKE, _NO_BRACKETS).replace(b'""', b"")
    if _QUOTE in brackets:
        brackets = _TEXT.sub(b"", brackets)
    for _ in range(DEEPEST):
        if not brackets:
            return True
        brackets = brackets.replace(b"{}", b"")  # one level
    return not brackets


def _collect(body: bytes, masked: bytes, add: Callable[[Any], None], brackets: bytes) -> list[Odd]:
    odd: dict[str, Odd] = {}
    weight = 0
    for part in _parts(masked, lists=brackets == b"[]"):
        found = part.refused or _refusal(masked, part)
        text = body[part.begin : part.end].strip().removeprefix(b",").strip()
        if not found:
            try:
                add(_loads(brackets[:1] + text + brackets[1:]))
            except ValueError:
                found = NOT_JSON
            else:
                weight += _weight(masked, part) + part.end - part.begin
        if found:
            known = found if found == NOT_AN_OBJECT else hashlib.sha256(text).hexdigest()
            odd[known] = Odd(known, found)
        if weight > HEAVIEST:
            raise TooHeavyError(f"it would take more than {HEAVIEST} bytes of memory: narrow the query")
    return list(odd.values())


class _Part(NamedTuple):
    """Of a list one item, or plain values in a row; of an object up to the end of one list or object."""

    begin: int
    end: int
    depth: int = 0
    refused: str = ""


def _parts(masked: bytes, *, lists: bool) -> Iterator[_Part]:
    """Cut the outermost list or object into parts.

    Args:
        masked: the answer, without escapes in its texts.
        lists: the outermost is a list. Every item of it is to be an object, so others are not parsed, and of
            those only the first is told: there may be millions.

    Raises:
        ValueError: it has no end, or something follows it.
    """
    begin = len(masked) - len(masked.lstrip()) + 1
    told = False
    for start, end, deepest in _levels(masked, begin):
        if lists and not told and masked[begin:start].strip(_BETWEEN):
            told = True  # plain values, which must not cost the item behind them
            yield _Part(begin, start, 1, NOT_AN_OBJECT)
        if start == end:
            if not lists and masked[begin:end].strip():
                yield _Part(begin, end)
            return
        foreign = lists and (masked[start] == _LIST or deepest == 1)
        if not (foreign and told):
            yield _Part(start if lists else begin, end, deepest, NOT_AN_OBJECT if foreign else "")
        begin, told = end, told or foreign


def _levels(masked: bytes, begin: int) -> Iterator[tuple[int, int, int]]:
    """Where each list or object in the outermost begins and ends, and its depth; last, where that one ends.

    The depth is 1 for one without any text or further level in it.

    Raises:
        ValueError: it has no end, or something follows it.
    """
    depth = deepest = 1
    start = begin
    for token in _TOKEN.finditer(masked, begin):
        at, end = token.span()
        first = masked[at]
        if first == _QUOTE:
            continue
        if depth == 1:
            start = at
        if end - at == 1:
            depth += 1 if first in (_LIST, _OBJECT) else -1
        deepest = max(deepest, depth)
        if depth == 0:
            if masked[end:].strip():
                raise ValueError("something follows its end")
            yield at, at, 0
            return
        if depth == 1:
            yield start, end, deepest
            deepest = 1
    raise ValueError("it has no end")


def _refusal(masked: bytes, part: _Part) -> str:
    if part.depth > DEEPEST:
        return TOO_DEEP
    return TOO_LARGE if _weight(masked, part) > HEAVIEST_ITEM else ""


def _weight(masked: bytes, part: _Part) -> int:
    """Bytes of memory for the structure, at most: what looks like structure within a text counts as well."""
    where = part.begin, part.end
    return (
        _VALUE * masked.count(b",", *where)
        + _EMPTY_LIST * masked.count(b"[", *where)
        + _SMALL_OBJECT * masked.count(b"{", *where)
    )


def _loads(text: bytes) -> Any:  # noqa: ANN401 (any JSON)
    """Parse strictly: UTF-8, no name twice, no number that is none.

    Raises:
        ValueError: it is not like that.
    """
    found = _DECODER.decode(text.decode())
    if rb"\u" in text and _SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _no_number(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(_TWICE)
    return made


_DECODER: Final = json.JSONDecoder(
    parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_distinct
)
