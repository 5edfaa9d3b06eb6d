"""Changes one JSON document value by value: a mutation of its bytes is seldom JSON again."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, Final

_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 65536, 2**31, 2**63, 10**400, 0.5, 1e308, float("inf"), float("nan"),
    "", "0", "x", "\0", "\t\n", "\x1b[31m", "\x85", "\u202e", "\ud800", "\u0660", "a" * 300,
    "::1", "127.0.0.1", "fe80::1%eth0", "192.0.2.1", "-oProxyCommand=id", "..", "/", "AA==", "!", [], {},
    [[]], [{}], [None], {"": ""},
)  # fmt: skip
_CHANGES: Final = 3


def mutate(data: bytes, seed: int) -> bytes:
    """The document with a few values, names or places changed; unchanged if it is not JSON."""
    chance = random.Random(seed)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(chance.randint(1, _CHANGES)):
        document = _changed(document, chance)
    return json.dumps(document).encode()


def _changed(document: Any, chance: random.Random) -> Any:  # noqa: ANN401 (any JSON)
    places = list(_places(document))
    if not places or chance.random() < 0.02:
        return chance.choice(_ODD)
    holder, at = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[at]
    elif kind == 1:
        other, there = chance.choice(places)
        if (other, there) != (holder, at):
            holder[at] = copy.deepcopy(other[there])
    elif kind == 2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[at]))
    elif kind == 2:
        holder[chance.choice([name for name in _ODD if isinstance(name, str)])] = holder.pop(at)
    elif kind == 3:
        holder[at] = [holder[at]] if chance.random() < 0.5 else {"x": holder[at]}
    else:
        holder[at] = copy.deepcopy(chance.choice(_ODD))
    return document


def _places(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Each value inside, as what holds it and where."""
    names = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    for at in names:
        yield value, at
        yield from _places(value[at])
