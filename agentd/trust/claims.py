"""What a signed message says: one flat JSON object of texts, whole numbers and `true`.

Owns its fields, and how strictly they are read: what two readers could understand in two ways is refused.
Times are whole milliseconds, so that no number needs a fraction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from agentd.errors import BadDocument
from agentd.trust.encoding import decode64
from agentd.trust.keys import FLEET_ID, is_kid
from agentd.trust.seal import OVERHEAD

Claims: TypeAlias = Mapping[str, str | int]
"""By field, a text, a whole number, or True."""

LARGEST_BODY: Final = 32 * 1024
"""Bytes of a payload within its message."""
LARGEST_DETACHED: Final = 512 * 1024
"""Bytes of one that lies in a key of its own; it cannot be sealed."""

_LAST_TIME: Final = 10**14  # milliseconds: a year of four digits
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTENTS: Final = ({"body"}, {"sealed", "key"}, {"sha256", "size"})


def _text(longest: int, shortest: int = 1) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and shortest <= len(value) <= longest and value.isprintable()


def _between(first: int, last: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and first <= value <= last


def _bytes(shortest: int, longest: int) -> Callable[[object], bool]:
    most = (longest * 4 + 2) // 3

    def is_one(value: object) -> bool:
        try:
            return (
                isinstance(value, str) and len(value) <= most and shortest <= len(decode64(value)) <= longest
            )
        except ValueError:
            return False

    return is_one


_REQUIRED: Final = {
    "kind": _text(64),
    "via": lambda value: value in ("publish", "again"),
    "id": _text(64),
    "issued": _between(0, _LAST_TIME),
    "publisher": _text(512, shortest=0),
}
_OPTIONAL: Final = {
    "expires": _between(0, _LAST_TIME),
    "node": _text(512),
    "service": _text(512),
    "tag": _text(512),
    "snapshot": lambda value: value is True,
    "body": _bytes(0, LARGEST_BODY),
    "sealed": _bytes(OVERHEAD, LARGEST_BODY + OVERHEAD),
    "key": lambda value: isinstance(value, str) and is_kid(value, FLEET_ID),
    "sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
    "size": _between(LARGEST_BODY + 1, LARGEST_DETACHED),
}
_RULES: Final = _REQUIRED | _OPTIONAL


def render_claims(claims: Claims) -> bytes:
    """As few bytes of ASCII as it takes.

    Raises:
        BadDocument: no reader would take them.
    """
    _check(claims)
    return json.dumps(claims, separators=(",", ":")).encode("ascii")


def parse_claims(raw: bytes) -> Claims:
    """The claims in these bytes, of which the caller knows that they are not too many.

    Raises:
        BadDocument: they are not what `render_claims` could have been given, or a name is there twice.
    """
    try:
        found = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadDocument("what is signed is not JSON, or a name in it is there twice") from error
    if not isinstance(found, dict):
        raise BadDocument("what is signed is not a JSON object")
    _check(found)
    return found


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _whole(text: str) -> int:
    if len(text) > len(str(_LAST_TIME)):
        raise ValueError("the number is too large")
    return int(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_whole)


def _check(claims: Mapping[str, object]) -> None:
    """Raise BadDocument for the first field that is unknown, missing or wrong."""
    for name in [*claims, *_REQUIRED]:
        if name not in _RULES:
            raise BadDocument("what is signed has a field that this format does not have")
        if not _RULES[name](claims.get(name)):
            raise BadDocument(f"what is signed has no usable `{name}`")
    if claims.keys() & set().union(*_CONTENTS) not in _CONTENTS:
        raise BadDocument("what is signed has no payload, or more than one")
