"""Parses and renders the fleet's JSON documents in Consul's KV store.

Owns the limits and strict checks that all of them share, since anyone with write access to the store chooses
every byte. The meaning of the fields belongs to each document's own module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from agentd.errors import BadDocument, UnknownFormat
from agentd.watch.parsing import parse
from agentd.watch.shapes import misfit

Rule: TypeAlias = Callable[[object], bool]

_LAST_TIME: Final = 1e11  # seconds, about the year 5138: no later time is plausible
_SHOWN: Final = 1 << 31


def read_document(data: bytes, *, largest: int, formats: range, what: str) -> dict[str, Any]:
    """Parse a document.

    Args:
        data: the value as stored in Consul.
        largest: bytes that it may have at most.
        formats: the values of its field `format` that the caller understands.
        what: what to call it in errors, such as "the message".

    Raises:
        UnknownFormat: a newer agentd wrote it.
        BadDocument: it is not a valid document.
    """
    if len(data) > largest:
        raise BadDocument(f"{what} has {len(data)} bytes; the limit is {largest}")
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
        raise UnknownFormat(
            f"{what} has format {number}, but this agentd only knows up to {formats[-1]}: upgrade agentd"
        )
    if number not in formats:
        raise BadDocument(f"{what} has format {number}, which agentd no longer reads")
    return value


def check_shape(value: Mapping[str, Any], shape: Mapping[str, Rule], what: str) -> None:
    """Check every field by its rule. Raises BadDocument, which names the first invalid field."""
    if wrong := misfit(value, shape):
        raise BadDocument(f"{what} has no valid field {wrong!r}")


def render_document(value: Mapping[str, Any]) -> bytes:
    """Render a document as compact ASCII JSON, without the fields that are None."""
    kept = {name: one for name, one in value.items() if one is not None}
    return json.dumps(kept, separators=(",", ":"), allow_nan=False).encode("ascii")


def is_time(value: object) -> bool:
    """Whether this is a plausible unix time in seconds."""
    return type(value) in (int, float) and 0 <= value < _LAST_TIME  # type: ignore[operator] # a number


def is_text(longest: int) -> Rule:
    """A rule for printable text of at most `longest` characters."""
    return lambda value: isinstance(value, str) and len(value) <= longest and value.isprintable()


def optional(rule: Rule) -> Rule:
    """A rule for a field that may be missing or null, and otherwise obeys `rule`."""
    return lambda value: value is None or rule(value)
