"""Types of arguments: each takes one word of the command line and returns its value, or says what is needed.

Whatever checks a word is imported only when there is a word to check, so that commands start fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from agentd.commands.parser import Parser

T = TypeVar("T")


def word(text: str) -> str:
    """Any printable text."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("it must not be empty or contain control characters")
    return text


def reason(text: str) -> str:
    """A printable text of at most 200 characters."""
    if len(word(text)) > 200:  # noqa: PLR2004 (it is said above)
        raise argparse.ArgumentTypeError("it must not be longer than 200 characters")
    return text


def prefix(text: str) -> str:
    """A path in the KV store, without slashes around it."""
    from agentd.locks.lock import check_prefix  # noqa: PLC0415 (brings the client, which the command needs anyway)

    return checked(check_prefix, text)


def number(text: str) -> int:
    """A whole number, 0 or more."""
    return 0 if text == "0" else count(text)


def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):  # noqa: PLR2004 (what fits SQLite)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def message_number(text: str) -> int:
    """The number of a message of the fleet's log, with or without its leading zeros."""
    from agentd.fleet.keys import is_number  # noqa: PLC0415 (as above)

    if not (text.isascii() and text.isdigit() and len(text) <= 16 and is_number(int(text))):  # noqa: PLR2004 (its digits)
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a message: see `agentd log`")
    return int(text)


def seconds(text: str) -> float:
    """A duration in seconds, such as 55s or 1h30m."""
    from agentd.values import parse_duration  # noqa: PLC0415 (as above)

    return checked(parse_duration, text)


def some_seconds(text: str) -> float:
    """As `seconds`, but not 0."""
    found = seconds(text)
    if not found:
        raise argparse.ArgumentTypeError("it must be longer than 0")
    return found


def kept_name(text: str) -> str:
    """A name that the fleet's log can have."""
    from agentd.fleet.keys import is_kept_name  # noqa: PLC0415 (as above)

    if not is_kept_name(text):
        raise argparse.ArgumentTypeError(
            "a kept name is 1 to 64 characters long, of A-Z a-z 0-9 _ . -, and begins with a letter or digit"
        )
    return text


def checked(check: Callable[[str], T], text: str) -> T:
    """The value that `check` returns; its ValueError becomes a usage error."""
    try:
        return check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_wait(parser: Parser) -> None:
    """Add `--wait`, for commands that leave their work to the daemon."""
    parser.add_argument(
        "--wait",
        type=seconds,
        default=15.0,
        metavar="T",
        help="how long to wait for the daemon; 0 = don't wait (default 15s)",
    )
