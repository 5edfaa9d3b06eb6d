"""One JSON object from Consul's KV store: whoever may write there chose every byte of it.

Owns the limits and the strictness that all of a fleet's documents share. What a field means is up to the
module of the document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from agentd.errors import BadDocument, UnknownFormat
from agentd.watch.parsing import parse
from agentd.watch.shapes import misfit

Rule: TypeAlias = Callable[[object], bool]

_LAST_TIME: Final = 1e11  # seconds: a year of four digits
_SHOWN: Final = 1 << 31


def read_document(data: bytes, *, largest: int, formats: range, what: str) -> dict[str, Any]:
    """The object in `data`.

    Args:
        data: as it lies in Consul.
        largest: bytes that it may have.
        formats: those that the caller understands; `format` says which one it is.
        what: it is, in a message.

    Raises:
        UnknownFormat: a newer agentd wrote it.
        BadDocument: it is no such object.
    """
    if len(data) > largest:
        raise BadDocument(f"{what} has {len(data)} bytes; at most {largest} are read")
    try:
        found = parse(data)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"{what} is not JSON") from error
    value = found.value
    if found.odd or not isinstance(value, dict):
        raise BadDocument(f"{what} is not a JSON object that agentd writes")
    number = value.get("format")
    if type(number) is not int or not 0 < number < _SHOWN:
        raise BadDocument(f"{what} has no format")
    if number >= formats.stop:
        raise UnknownFormat(f"{what} has format {number}, and this agentd knows {formats[-1]}: upgrade it")
    if number not in formats:
        raise BadDocument(f"{what} has format {number}, which no agentd writes any more")
    return value


def check_shape(value: Mapping[str, Any], shape: Mapping[str, Rule], what: str) -> None:
    """Check each field by its rule. Raises BadDocument, which names the first that is wrong."""
    if wrong := misfit(value, shape):
        raise BadDocument(f"{what} has no usable {wrong}")


def render_document(value: Mapping[str, Any]) -> bytes:
    """As few bytes of ASCII as it takes; fields that are None are left out."""
    kept = {name: one for name, one in value.items() if one is not None}
    return json.dumps(kept, separators=(",", ":"), allow_nan=False).encode("ascii")


def is_time(value: object) -> bool:
    """Whether it can be unix seconds."""
    return type(value) in (int, float) and 0 <= value < _LAST_TIME  # type: ignore[operator] # a number


def is_text(longest: int) -> Rule:
    """A rule: a text that can be shown, of at most so many characters."""
    return lambda value: isinstance(value, str) and len(value) <= longest and value.isprintable()


def optional(rule: Rule) -> Rule:
    """A rule: nothing, or what the rule says."""
    return lambda value: value is None or rule(value)
