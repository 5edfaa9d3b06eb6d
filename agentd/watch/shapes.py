"""What an item of an answer must be, so that the rest of agentd can rely on it: the types, and a few rules.

Fields that are not named here may hold anything, and are handed on. A text may hold any character of Unicode,
except where it is a name: that would reach logs, tables and files. An address is any text: whoever uses it as
one judges it, and says by name what it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from agentd.watch.parsing import NOT_AN_OBJECT

Rule: TypeAlias = Callable[[object], bool]
Shape: TypeAlias = "Mapping[str, Rule | Shape]"

_HEX: Final = "[0-9a-fA-F]"
_UUID: Final = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_LONGEST_NAME: Final = 1024
_LONGEST_PAYLOAD: Final = 16 * 1024  # of an event, in base64; Serf takes no event above 9 KiB
_LAST_SHORT: Final = 65535  # of 16 bits
_LAST_NUMBER: Final = 2**64 - 1  # of Consul, which has no negative ones


def misfit(item: object, shape: Shape) -> str:
    """The first field that is missing or wrong, such as "Service.Port"; "" if the item is of the shape."""
    if not isinstance(item, dict):
        return NOT_AN_OBJECT
    for name, rule in shape.items():
        value = item.get(name)
        if callable(rule):
            if not rule(value):
                return name
        elif found := misfit(value, rule):
            return name if found == NOT_AN_OBJECT else f"{name}.{found}"
    return ""


def is_name(value: object) -> bool:
    """Whether it is a text of reasonable length without control characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_NAME
        and (value.isprintable() or not _CONTROL.search(value))
    )


def is_base64(text: str) -> bool:
    """Whether the standard alphabet was used, and padding."""
    return len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_between(first: int, last: int) -> Rule:
    return lambda value: type(value) is int and first <= value <= last


def _is_payload(value: object) -> bool:
    """Whether it can be one; whether it is base64 is judged for each handler, which refuses it otherwise."""
    return isinstance(value, str) and len(value) <= _LONGEST_PAYLOAD


def _is_value(value: object) -> bool:
    return isinstance(value, str) and is_base64(value)


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _maybe(rule: Rule) -> Rule:
    """Also nothing, or an empty text."""
    return lambda value: value is None or value == "" or rule(value)


def _each(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _all_values(rule: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(map(rule, value.values()))


def _of(shape: Shape) -> Rule:
    return lambda value: not misfit(value, shape)


is_number: Final = _is_between(0, _LAST_NUMBER)
_is_short: Final = _is_between(0, _LAST_SHORT)

EVENT: Final[Shape] = {
    "ID": _is_uuid,
    "Name": is_name,
    "LTime": is_number,
    "Payload": _maybe(_is_payload),
}
NODE: Final[Shape] = {"Node": is_name, "Address": _maybe(_is_text)}
_CHECK: Final[Shape] = {"Status": _is_text, "CheckID": _maybe(_is_text), "Definition": _maybe(_is_map)}
INSTANCE: Final[Shape] = {
    "Node": NODE,
    "Service": {
        "ID": _maybe(is_name),
        "Address": _maybe(_is_text),
        "Port": _maybe(_is_short),
        "Ports": _maybe(_each(_is_map)),
        "Weights": _maybe(_all_values(_is_short)),
        "Tags": _maybe(_each(_is_text)),
        "Meta": _maybe(_all_values(_is_text)),
    },
    "Checks": _maybe(_each(_of(_CHECK))),
}
PAIR: Final[Shape] = {
    "Key": _is_text,
    "Value": _maybe(_is_value),
    "Flags": _maybe(is_number),
    "ModifyIndex": _maybe(is_number),
    "Session": _maybe(_is_text),
}
CHECK: Final[Shape] = {
    "CheckID": is_name,
    "Node": _maybe(is_name),
    "ServiceID": _maybe(is_name),
    "Status": _maybe(_is_text),
    "Definition": _maybe(_is_map),
}


def misfit_instance(item: object) -> str:
    """The same for an instance, which has an address of its own, or that of its node."""
    found = misfit(item, INSTANCE)
    if found or not isinstance(item, dict):
        return found
    return "" if item["Service"].get("Address") or item["Node"].get("Address") else "Address"


def misfit_service(name: object, tags: object) -> str:
    """The same for what the catalogue's list says of one service."""
    if not is_name(name):
        return "name"
    return "" if _maybe(_each(_is_text))(tags) else "tags"
