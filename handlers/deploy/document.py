"""The YAML of a manifest, as gopkg.in/yaml.v2 reads it, with which Stretcher reads its manifests.

Every scalar is kept as text: a checksum of digits is not a number, and null is an empty text. The text comes
from outside, so it is read event by event, without recursion: an alias is a reference and never copied, and
what merge keys may repeat is limited. What the fields mean is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

_DEEPEST: Final = 100
_MOST_MERGED: Final = 10_000
"""Fields of one manifest, those that merge keys bring counted each time."""
_MERGE: Final = "<<"
_TAGS: Final = frozenset(
    {
        None,
        "!",
        *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")),
    }
)
_LOADER: Final[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULLS: Final = frozenset({"~", "null", "Null", "NULL"})


@dataclass(slots=True)
class Pairs:
    """A map, in the order in which it is written; a key of None is a merge key."""

    line: int
    pairs: list[tuple[str | None, Value]] = field(default_factory=list)


Value: TypeAlias = "str | list[Value] | Pairs"


@dataclass(slots=True)
class _Open:
    """A list or map that is being read."""

    value: list[Value] | Pairs
    anchor: str | None
    key: str | None = None
    keyed: bool = False


def read_document(text: str) -> tuple[Value, bool]:
    """Read the first document, as Stretcher does; "" if there is none.

    Returns:
        The document, and whether more follow, which do not count.

    Raises:
        ValueError: it is not YAML, or not such as a manifest may have; the message quotes no value.
    """
    events = yaml.parse(text, Loader=_LOADER)
    try:
        value = _read(events)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"it is not YAML{f' (line {mark.line + 1})' if mark else ''}") from error
    try:
        return value, any(isinstance(event, yaml.DocumentStartEvent) for event in events)
    except yaml.YAMLError:
        return value, True


def _read(events: Iterator[Any]) -> Value:
    stack: list[_Open] = []
    anchors: dict[str, Value | None] = {}
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event)
            if len(stack) == _DEEPEST:
                raise _unusable(event, f"more than {_DEEPEST} levels of maps and lists")
            made: Any = [] if isinstance(event, yaml.SequenceStartEvent) else Pairs(_line(event))
            stack.append(_Open(made, event.anchor))
            anchors[event.anchor or ""] = None  # an alias must not lead to what is not complete yet
        elif isinstance(event, yaml.CollectionEndEvent):
            done = stack.pop()
            anchors[done.anchor or ""] = done.value
            if not stack:
                return done.value
            _put(stack[-1], done.value, event)
        elif isinstance(event, yaml.AliasEvent):
            found = anchors.get(event.anchor or "")
            if found is None:
                raise _unusable(event, "an alias to something undefined, or to what contains it")
            _put(stack[-1], found, event)
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event)
            value = "" if _is_null(event) else str(event.value)
            anchors[event.anchor or ""] = value
            if not stack:
                return value
            _put(stack[-1], value, event)
    return ""


def _put(into: _Open, value: Value, event: Any) -> None:  # noqa: ANN401 (PyYAML's)
    """Add an item to a list, or a key or its value to a map."""
    if isinstance(into.value, list):
        into.value.append(value)
    elif into.keyed:
        into.value.pairs.append((into.key, value))
        into.keyed = False
    elif isinstance(value, str):
        merge = value == _MERGE and isinstance(event, yaml.ScalarEvent) and not event.style
        into.key, into.keyed = (None if merge else value), True
    else:
        raise _unusable(event, "a key must be a plain name")


def _is_null(event: Any) -> bool:  # noqa: ANN401 (PyYAML's)
    return event.value in _NULLS and not event.style and event.tag is None


def _check_tag(event: Any) -> None:  # noqa: ANN401 (PyYAML's)
    if event.tag not in _TAGS:
        raise _unusable(event, "an unknown tag")


def _unusable(event: Any, why: str) -> ValueError:  # noqa: ANN401 (PyYAML's)
    return ValueError(f"it is not YAML that a manifest may contain (line {_line(event)}): {why}")


def _line(event: Any) -> int:  # noqa: ANN401 (PyYAML's)
    return int(event.start_mark.line) + 1


class Fields:
    """The fields of a map, put together as yaml.v2 fills in a struct.

    That is in the order written: a later key replaces an earlier one, and a merge key brings its fields as if
    they stood in its place. A field that is a struct itself is filled in further by each map that it gets.

    Args:
        structs: the fields that are structs.

    Attributes:
        twice: the keys that one map gives twice, of which the last one counts.
    """

    def __init__(self, structs: frozenset[str]) -> None:
        self.twice: set[str] = set()
        self._structs, self._left = structs, _MOST_MERGED

    def fill(self, into: dict[str, Any], pairs: Pairs) -> None:
        """Fill in `into`; after an error it has what was written before.

        Raises:
            ValueError: a merge key without a map, or too many of them.
        """
        todo = [(into, pairs, iter(pairs.pairs), set[str]())]
        while todo:
            target, origin, rest, seen = todo[-1]
            key, value = next(rest, (_MERGE, None))
            if value is None:
                todo.pop()
                continue
            self._left -= 1
            if self._left < 0:
                raise ValueError(
                    f"more than {_MOST_MERGED} fields, those that merge keys (<<) bring included"
                )
            if key is None:
                # Of several maps the first one counts: it is filled in last.
                merged = _maps(value, origin)
                self._left -= len(merged)
                todo.extend((target, one, iter(one.pairs), set()) for one in merged)
                continue
            if key in seen:
                self.twice.add(key)
            seen.add(key)
            if target is into and key in self._structs and isinstance(value, Pairs):
                inner = target.get(key)
                target[key] = inner if isinstance(inner, dict) else {}
                todo.append((target[key], value, iter(value.pairs), set()))
            else:
                target[key] = {} if key in self._structs and value == "" else value


def _maps(value: Value, origin: Pairs) -> list[Pairs]:
    found = value if isinstance(value, list) else [value]
    maps = [one for one in found if isinstance(one, Pairs)]
    if len(maps) != len(found):
        raise ValueError(f"a merge key (<<) takes a map, or a list of maps (line {origin.line})")
    return maps
