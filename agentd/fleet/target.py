"""Whether a message is for this node: its node, service and tag filters, as Consul reads those of an event.

Each is a regular expression that may match anywhere in the name (https://developer.hashicorp.com/consul/commands/event).
Whoever wrote the message chose it, so that one that could take long is not tried: it matches nobody.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from agentd.errors import BadDocument
from agentd.fleet.envelope import Envelope

Services = Sequence[tuple[str, Sequence[str]]]
"""Of this node: each the name and the tags."""

_LONGEST: Final = 256  # characters of a name that are looked at
_MOST_WAYS: Final = 1 << 17  # of matching one name: what Python tries is at most that, from each character on
_WAYS_OF_REPEAT: Final = 32
_STEPS: Final = re.compile(r"\\.|[][()|*+?{]", re.DOTALL)
_NESTED: Final = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


def matches(message: Envelope, node: Callable[[], str], services: Callable[[], Services]) -> bool:
    """Whether the message is for the node.

    Args:
        message: of the log.
        node: asks for the name of the node; only if the message names one.
        services: asks for those of the node; only if the message names a service or a tag.

    Raises:
        BadDocument: one of its filters cannot be used.
    """
    if message.node and not _search(message.node, node()):
        return False
    if not (message.service or message.tag):
        return True
    return any(
        _search(message.service, name) and (not message.tag or any(_search(message.tag, tag) for tag in tags))
        for name, tags in services()
    )


def services_of(answer: Any) -> Services:  # noqa: ANN401 (any JSON)
    """The services in an answer to `/v1/agent/services`; what cannot be read is left out."""
    found = answer.values() if isinstance(answer, Mapping) else ()
    return [
        (one["Service"], [tag for tag in one.get("Tags") or () if isinstance(tag, str)])
        for one in found
        if isinstance(one, Mapping) and isinstance(one.get("Service"), str)
    ]


def _search(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text[:_LONGEST]) is not None


@lru_cache(64)
def compiled(pattern: str) -> re.Pattern[str]:
    """A filter, as every node compiles it.

    Raises:
        BadDocument: it is no expression, or one that could take long to match: with many repeats, options
            or alternatives, or one repeat within another.
    """
    if _NESTED.search(pattern) or _ways(pattern) > _MOST_WAYS:
        raise BadDocument("its node, service or tag filter is an expression that could take long to match")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadDocument("its node, service or tag filter is no regular expression") from error


def _ways(pattern: str) -> int:
    """In how many ways it may match, at most, if no group is repeated.

    Each repeat and each group multiplies them: `.?` twenty times over tries a million before it gives up.
    """
    ways, branches, in_set = 1, [1], False
    for step in _STEPS.findall(pattern):
        if in_set or step == "[":
            in_set = step != "]"
            continue
        match step:
            case "*" | "+" | "{":
                ways *= _WAYS_OF_REPEAT
            case "?":
                ways *= 2
            case "(":
                branches.append(1)
            case "|":
                branches[-1] += 1
            case ")" if branches[1:]:
                ways *= branches.pop()
    return ways * math.prod(branches)
