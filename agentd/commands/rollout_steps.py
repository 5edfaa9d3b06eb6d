"""Which nodes get a rollout when: a canary first, then growing shares of the fleet.

Owns what may be typed for `--canary` and `--steps`, which nodes are meant, and the thresholds of the steps.
Pure: what it has to know of the fleet it is given.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.fleet.rollout import Admission

STEPS: Final = (1, 10, 50, 100)
"""The percentages of `--steps`, if there is none."""
_FORMS: Final = ("count", "node", "tag")
_LONGEST_TAG: Final = 128
_MOST_SHOWN: Final = 5  # nodes that are named
_WHOLE: Final = 100

_Tagged = Callable[[str], Collection[str]]


@dataclass(frozen=True, slots=True)
class Canary:
    """Who is to be first, as typed.

    Attributes:
        form: what it says it is; "" if that has to be found out.
        text: the rest.
    """

    form: Literal["", "count", "node", "tag"]
    text: str


def canary(text: str) -> Canary:
    """Parse `--canary`: a number of nodes, their names, or a tag."""
    given, colon, rest = text.partition(":")
    form = next((one for one in _FORMS if colon and given == one), "")
    found = Canary(form, rest if form else text)  # type: ignore[arg-type] # one of the forms
    many = found.text.split(",") if found.form != "tag" else []
    if not (found.text.strip() and all(map(str.strip, many)) and text.isprintable()):
        raise ArgumentTypeError("give a number of nodes, names of nodes with commas between them, or a tag")
    if form == "count" and not _is_count(found.text):
        raise ArgumentTypeError(f"{rest!r} is not a number of nodes")
    if found.text.endswith("%"):
        raise ArgumentTypeError(f"give a number of nodes, and shares with --steps, such as --steps {text}")
    return found


def percentages(text: str) -> tuple[int, ...]:
    """Parse `--steps`: rising percentages from 1% to 100%, with commas between them."""
    found: list[int] = []
    for one in text.split(","):
        digits = one.strip().removesuffix("%")
        if not (_is_count(digits) and int(digits) <= _WHOLE):
            raise ArgumentTypeError(f"{one.strip()!r} is not a percentage from 1% to 100%")
        found.append(int(digits))
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise ArgumentTypeError("each step must be larger than the one before")
    return tuple(found)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0  # noqa: PLR2004 (enough nodes)


# ---------------------------------------------------------------- who is first


def admit_first(found: Canary, known: Collection[str], tagged: _Tagged, rollout: str) -> Admission:
    """Whom the first step admits.

    Args:
        found: as typed.
        known: the nodes that take the name.
        tagged: returns those of them with a service that has this very tag.
        rollout: the ID of the rollout.

    Raises:
        AgentdError: nobody is meant, or it is not clear who.
    """
    from agentd.fleet.rollout import Admission  # noqa: PLC0415 (parsing does without)

    text, words = found.text, [one.strip() for one in found.text.split(",")]
    form = found.form or _form(text, words, known)
    if form == "count":
        if int(text) > len(known):
            raise AgentdError(f"--canary {text}: only {len(known)} nodes take that name")
        return widen(Admission(), (), known, int(text), rollout)
    if form == "node":
        unknown = [one for one in words if one not in known]
        if unknown:
            raise AgentdError(
                f"--canary: no node that takes that name is called {' or '.join(unknown[:_MOST_SHOWN])}: give"
                f" some of {_named(known)}, or write tag:{text} for a tag"
            )
        return Admission(nodes=tuple(sorted(set(words))))
    if len(text) > _LONGEST_TAG:
        raise AgentdError(f"--canary: a tag has at most {_LONGEST_TAG} characters")
    if not tagged(text):
        raise AgentdError(
            f"--canary {text}: no node that takes that name is called so or has a service with that tag: give"
            f" a number of nodes, or some of {_named(known)}"
        )
    return Admission(tag=text)


def _form(text: str, words: Sequence[str], known: Collection[str]) -> str:
    if _is_count(text):
        if text in known:
            raise AgentdError(
                f"--canary {text}: a node is called so: write node:{text} for that node, or count:{text} for"
                " a number of nodes"
            )
        return "count"
    return "node" if words[1:] or text in known else "tag"


def _named(known: Collection[str]) -> str:
    shown = ", ".join(sorted(known)[:_MOST_SHOWN])
    return f"{shown} and {len(known) - _MOST_SHOWN} more" if len(known) > _MOST_SHOWN else shown


# ---------------------------------------------------------------- how many are next


def wanted(percent: int, count: int) -> int:
    """How many of so many nodes a step is for: rounded up, so at least one."""
    return max(1, -(-percent * count // _WHOLE))


def widen(
    before: Admission, admitted: Collection[str], known: Collection[str], count: int, rollout: str
) -> Admission:
    """Admit further nodes until so many of those that are known are admitted, or all of them.

    Args:
        before: whom the step before admits.
        admitted: the known nodes that it admits.
        known: the nodes that take the name.
        count: how many to admit in all.
        rollout: the ID of the rollout.

    Returns:
        The same admission if that many are admitted already.
    """
    from agentd.fleet.rollout import share  # noqa: PLC0415 (as above)

    missing = count - len(admitted)
    shares = sorted(share(one, rollout) for one in known if one not in admitted)
    if missing <= 0 or not shares:
        return before
    return replace(before, below=max(before.below, shares[min(missing, len(shares)) - 1] + 1))


def next_step(
    steps: Sequence[int], before: Admission, admitted: Collection[str], known: Collection[str], rollout: str
) -> tuple[int, Admission] | None:
    """The next step that admits anybody new, as its percentage and whom it admits.

    None if there is no other: what follows is the release for all. Arguments are those of `widen`.
    """
    from agentd.fleet.rollout import ALL  # noqa: PLC0415 (as above)

    for percent in steps:
        if percent == _WHOLE:
            after = replace(before, below=ALL)  # nodes that join meanwhile as well
            admits_more = len(admitted) < len(known)
        else:
            after = widen(before, admitted, known, wanted(percent, len(known)), rollout)
            admits_more = after != before
        if admits_more:
            return percent, after
    return None
