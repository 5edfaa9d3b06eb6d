"""Decides whether a message is for this node, by its node, service and tag filters, or by its rollout.

As for Consul's events, each filter is a regular expression that may match anywhere in the name
(https://developer.hashicorp.com/consul/commands/event). The publisher is not trusted with this node's CPU: a
filter that could take long to match matches nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from agentd.errors import BadDocument
from agentd.fleet.envelope import Envelope

Service = tuple[str, Sequence[str]]
"""A service on a node: its name and its tags."""
Services = Sequence[Service]
"""The services on one node."""

_LONGEST: Final = 256  # characters of a name that are searched
_MOST_WAYS: Final = 1 << 17  # to match a filter, that Python may have to try from each character on
_WAYS_OF_REPEAT: Final = 32
_STEPS: Final = re.compile(r"\\.|[][()|*+?{]", re.DOTALL)
_NESTED: Final = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


def matches(message: Envelope, node: Callable[[], str], services: Callable[[], Services]) -> bool:
    """Whether the message is for the node.

    Args:
        message: a message of the log.
        node: returns this node's name; called only if the message has a node filter.
        services: returns this node's services; called only if the message has a service or tag filter, or
            admits nodes by a tag.

    Raises:
        BadDocument: a filter is unusable.
    """
    if (admission := message.admission) is not None:
        tags = {tag for _, some in services() for tag in some} if admission.tag else ()
        return admission.admits(node(), tags, message.rollout)
    if message.node and not _search(message.node, node()):
        return False
    if not (message.service or message.tag):
        return True
    return any(
        _search(message.service, name) and (not message.tag or any(_search(message.tag, tag) for tag in tags))
        for name, tags in services()
    )


def services_of(answer: Any) -> Services:  # noqa: ANN401 (any JSON)
    """The services in an answer to `/v1/agent/services`; malformed entries are left out."""
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
    """Compile a filter, with the same result on every node.

    Raises:
        BadDocument: it is not a regular expression, or could take long to match: it has many repeats,
            options or alternatives, or nested repeats.
    """
    if _NESTED.search(pattern) or _ways(pattern) > _MOST_WAYS:
        raise BadDocument("its node, service or tag filter is an expression that could take long to match")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadDocument("its node, service or tag filter is not a valid regular expression") from error


def _ways(pattern: str) -> int:
    """An upper bound on the ways in which the pattern can match, provided that no group is repeated.

    Repeats and groups multiply: twenty times `.?` makes Python try a million ways before it gives up.
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
