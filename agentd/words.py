"""What a word of the command line may be: each takes the word and returns its value, or says what is needed.

What checks a word is imported only when there is one to check, so that each command starts as fast as it can.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
_LONGEST: Final = 60.0  # seconds for a load balancer to answer


def word(text: str) -> str:
    """Any printable text."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("it must not be empty or hold control characters")
    return text


def prefix(text: str) -> str:
    """A place in the KV store, without slashes around it."""
    from agentd.fleet.lock import check_prefix  # noqa: PLC0415 (brings the client, which the command needs anyway)

    return _checked(check_prefix, text)


def server(text: str) -> str:
    """An IP address and a port, as nginx spells them."""
    from agentd.fleet.dynamic_upstream import check_server  # noqa: PLC0415 (only two commands need it)

    return _checked(check_server, text)


def batch(text: str) -> object:
    """A number of servers or a share: a `Batch`."""
    from agentd.fleet.rolling import parse_batch  # noqa: PLC0415 (likewise)

    return _checked(parse_batch, text)


def upstream_name(text: str) -> str:
    """The name of an upstream's zone."""
    from agentd.fleet.dynamic_upstream import check_upstream  # noqa: PLC0415 (likewise)

    return _checked(check_upstream, text)


def path(text: str) -> str:
    """A path of HTTP."""
    from agentd.fleet.dynamic_upstream import check_path  # noqa: PLC0415 (likewise)

    return _checked(check_path, text)


def patience(text: str) -> float:
    """Seconds to wait for a load balancer: more than none, and not for ever."""
    given = seconds(text)
    if not 0 < given <= _LONGEST:
        raise argparse.ArgumentTypeError("more than nothing and at most a minute is needed, such as 3s")
    return given


def number(text: str) -> int:
    """A whole number from 0 on."""
    return 0 if text == "0" else count(text)


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):  # noqa: PLR2004 (what fits SQLite)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """A duration in seconds, such as 55s or 1h30m."""
    from agentd.options import parse_duration  # noqa: PLC0415 (brings pydantic, which most commands need anyway)

    return _checked(parse_duration, text)


def _checked(check: Callable[[str], T], text: str) -> T:
    try:
        return check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
