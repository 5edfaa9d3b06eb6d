"""The grammar of a payload: one operation per line.

    add CIDR [TTL] [# reason]              block, for good or for a duration such as 10m
    CIDR [# reason]                        the same as add
    remove CIDR                            stop blocking every address of this CIDR
    load [LIST] [REFERENCE [sha256:HEX]]   replace a named list with what the reference leads to
    clear LIST                             empty a named list; `entries` means everything that was added
    replace                                first line only: undo whatever earlier events did

Without LIST it is the list whose own reference this is, else `default`; without REFERENCE the list's own.
Blank lines and lines that begin with `#` are ignored. Owns the syntax only; `exemptions` says what may be
blocked. One bad line refuses the whole payload; the message quotes bad lines shortened and escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from agentd.handler import Duration, PermanentError
from handlers.ip_blacklist.guards import Guarded
from handlers.ip_blacklist.options import LIST_NAME
from handlers.ip_blacklist.ranges import Block, parse_cidr

_MOST_QUOTED: Final = 5
_LONGEST_QUOTE: Final = 60
_LONGEST_REASON: Final = 100
_LONGEST_TTL: Final = 10 * 366 * 86_400.0
_DURATION: Final = TypeAdapter(Duration)
_NAME: Final = re.compile(LIST_NAME)
_REFERENCE: Final = 2  # words: the reference itself, and a digest

Refuses = Callable[[Block], str | None]
"""Why a block may not be added, or None if it may."""


@dataclass(frozen=True, slots=True)
class ListOperation:
    """A line about named lists; None for what the line leaves out. `replace` is about everything."""

    verb: Literal["load", "clear", "replace"]
    name: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A line about a CIDR. `ttl` is in seconds, None for good; only `add` has it and `reason`."""

    verb: Literal["add", "remove"]
    block: Block
    ttl: float | None = None
    reason: str = ""


_REPLACE: Final = ListOperation("replace")


def parse_payload(payload: bytes, refuses: Refuses) -> list[Operation | ListOperation]:
    """Read all lines, in order.

    Raises:
        Guarded: a line would block an exempt address.
        PermanentError: a line is not in the grammar, or there is no operation.
    """
    operations: list[Operation | ListOperation] = []
    problems, guarded = [], False
    for number, raw in enumerate(payload.split(b"\n"), start=1):
        try:
            operation = _parse_line(raw.decode("utf-8").strip(" \t\r"))
            if operation == _REPLACE and operations:
                raise ValueError("`replace` must be the first line")  # noqa: TRY301 (as below)
            if why := _refusal(operation, refuses):
                guarded = True
                raise ValueError(why)  # noqa: TRY301 (one place adds the line's number and text)
        except ValueError as error:
            problems.append(f"line {number} {_quoted(raw)}: {_message(error)}")
        else:
            operations += [] if operation is None else [operation]
    if guarded:
        raise Guarded(_joined(problems), ("never_block",))
    if problems:
        raise PermanentError(_joined(problems))
    if not operations:
        raise PermanentError("no operation: a payload consists of lines such as `add 192.0.2.0/24 10m`")
    return operations


def _parse_line(line: str) -> Operation | ListOperation | None:
    text, _, comment = line.partition("#")
    words = [word for word in text.replace("\t", " ").split(" ") if word]
    if words and words[0] in ("load", "clear", "replace"):
        return _parse_list_line(words)
    match words:
        case []:
            return None
        case ["add", cidr]:
            return Operation("add", parse_cidr(cidr), None, _reason(comment))
        case ["add", cidr, ttl]:
            return Operation("add", parse_cidr(cidr), _parse_ttl(ttl), _reason(comment))
        case ["remove", cidr]:
            return Operation("remove", parse_cidr(cidr))
        case ["add" | "remove", *_]:
            raise ValueError("write `add CIDR [TTL]` or `remove CIDR`")
        case [cidr]:
            return Operation("add", parse_cidr(cidr), None, _reason(comment))
        case _:
            raise ValueError("write `add CIDR [TTL]`, `remove CIDR` or just a CIDR")


def _refusal(operation: Operation | ListOperation | None, refuses: Refuses) -> str | None:
    return refuses(operation.block) if isinstance(operation, Operation) and operation.verb == "add" else None


def _parse_list_line(words: list[str]) -> ListOperation:
    match words:
        case ["replace"]:
            return _REPLACE
        case ["clear", name] if _NAME.fullmatch(name):
            return ListOperation("clear", name)
        case ["load", name] if _NAME.fullmatch(name):
            return ListOperation("load", name)
        case ["load", name, *reference] if _NAME.fullmatch(name) and len(reference) <= _REFERENCE:
            return ListOperation("load", name, " ".join(reference))
        case ["load", first, *digest] if ":" in first and len(digest) < _REFERENCE:
            return ListOperation("load", None, " ".join((first, *digest)))
        case _:
            raise ValueError("write `load [LIST] REFERENCE [sha256:HEX]`, `clear LIST` or `replace`")


def _parse_ttl(text: str) -> float:
    # In YAML a bare number means seconds; here it is more likely the prefix length of a broken CIDR.
    if text.isdecimal():
        raise ValueError("a TTL needs a unit, such as 10m")
    try:
        ttl = _DURATION.validate_python(text)
    except ValidationError as error:
        raise ValueError("a TTL must be a duration, such as 10m or 1h30m") from error
    if not 0 < ttl <= _LONGEST_TTL:
        raise ValueError("a TTL must be more than 0 and at most 10 years")
    return ttl


def _reason(comment: str) -> str:
    """One printable line, whatever was fired: it is stored, and shown on terminals."""
    shown = (char if char.isprintable() else "?" for char in comment.strip()[:_LONGEST_REASON])
    return "".join(shown)


def _message(error: ValueError) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _quoted(raw: bytes) -> str:
    text = ascii(raw[:_LONGEST_QUOTE].decode("utf-8", errors="backslashreplace"))
    return f"{text}..." if len(raw) > _LONGEST_QUOTE else text


def _joined(problems: Iterable[str]) -> str:
    every = list(problems)
    more = len(every) - _MOST_QUOTED
    return "; ".join(every[:_MOST_QUOTED]) + (f"; and {more} more lines" if more > 0 else "")
