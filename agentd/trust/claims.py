"""The claims of a signed message: one flat JSON object of strings, integers and `true`.

Owns the fields, and how strictly they are parsed: anything that two parsers could read differently is
refused. Times are in milliseconds, so that all numbers are integers.
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
"""By field, a string, an integer, or True."""

LARGEST_BODY: Final = 32 * 1024
"""Bytes of a payload within its message."""
LARGEST_DETACHED: Final = 512 * 1024
"""Bytes of a payload in a key of its own; such a payload cannot be sealed."""

_LAST_TIME: Final = 10**14  # milliseconds: a year of four digits
_LAST_NUMBER: Final = 9 * 10**15 - 1  # of a message
_ALL: Final = 1 << 32  # no share of a rollout is as high
_ROLLOUT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
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
    "first": _between(1, _LAST_NUMBER),
    "rollout": lambda value: isinstance(value, str) and _ROLLOUT.fullmatch(value) is not None,
    "below": _between(0, _ALL),
    "nodes": _text(4096),
    "among": _text(128),
    "restores": _between(1, _LAST_NUMBER),
    "body": _bytes(0, LARGEST_BODY),
    "sealed": _bytes(OVERHEAD, LARGEST_BODY + OVERHEAD),
    "key": lambda value: isinstance(value, str) and is_kid(value, FLEET_ID),
    "sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
    "size": _between(LARGEST_BODY + 1, LARGEST_DETACHED),
}
_RULES: Final = _REQUIRED | _OPTIONAL


def render_claims(claims: Claims) -> bytes:
    """As compact JSON, in ASCII.

    Raises:
        BadDocument: `parse_claims` would refuse them.
    """
    _check(claims)
    return json.dumps(claims, separators=(",", ":")).encode("ascii")


def parse_claims(raw: bytes) -> Claims:
    """Parse claims; the caller has limited their size.

    Raises:
        BadDocument: it is not such an object, a field is unknown, missing or wrong, or a name occurs twice.
    """
    try:
        found = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadDocument("its claims are not JSON, or a name occurs twice") from error
    if not isinstance(found, dict):
        raise BadDocument("its claims are not a JSON object")
    _check(found)
    return found


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _whole(text: str) -> int:
    if len(text) > len(str(_LAST_NUMBER)):
        raise ValueError("the number is too large")
    return int(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_whole)


def _check(claims: Mapping[str, object]) -> None:
    """Raise BadDocument for the first field that is unknown, missing or wrong."""
    for name in [*claims, *_REQUIRED]:
        if name not in _RULES:
            raise BadDocument("its claims have a field that this format does not know")
        if not _RULES[name](claims.get(name)):
            raise BadDocument(f"its claims have no usable `{name}`")
    if claims.keys() & set().union(*_CONTENTS) not in _CONTENTS:
        raise BadDocument("its claims have no payload, or more than one")
