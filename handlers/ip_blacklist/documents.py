"""Blacklists as JSON: Spamhaus' lines and CrowdSec's decisions become plain lines, `CIDR # reason`.

Where a format says how many entries it has, that is passed on. A document takes many times its size to read:
what is not small is read in the child, under its limits. Pure but for reading and writing.

Sources: https://www.spamhaus.org/drop/drop_v4.json, https://docs.crowdsec.net/u/cscli/cscli_decisions_list,
https://docs.crowdsec.net/docs/local_api/bouncers-api
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

Document = Literal["spamhaus", "crowdsec"]

LONGEST_LINE: Final = 64 * 1024
_LONGEST_WORD: Final = 80
_SCOPES: Final = frozenset({"ip", "range"})
_WORD: Final = re.compile(r"[0-9A-Za-z:.][^\s#;,\"']*")


class Malformed(ValueError):  # noqa: N818 (it says what the list is)
    """The source is not in the format that it should be in."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a document.

    Attributes:
        declared: how many entries it says it has; None if it does not say.
        skipped: how many records name no address to block (another scope, a decision that has ended).
    """

    declared: int | None = None
    skipped: int = 0


def convert(source: BinaryIO, form: Document, write: Callable[[str], object]) -> Converted:
    """Give each record to `write` as a plain line.

    Raises:
        Malformed: it is not in this format.
    """
    return (_spamhaus if form == "spamhaus" else _crowdsec)(source, write)


def lines(source: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, one at a time. Raises Malformed if one is too long to be a line."""
    number = 0
    while line := source.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise Malformed(f"line {number} is longer than {LONGEST_LINE} bytes")
        yield line


def _spamhaus(source: BinaryIO, write: Callable[[str], object]) -> Converted:
    declared: int | None = None
    for number, line in enumerate(lines(source), start=1):
        if not line.strip():
            continue
        record = _json(line, f"line {number} is not JSON")
        if not isinstance(record, dict):
            raise Malformed(f"line {number} is not a JSON object")
        if record.get("type") == "metadata":
            declared = _count(record.get("records"))
        else:
            write(_line(record.get("cidr"), record.get("sblid")))
    if declared is None:
        raise Malformed("the metadata line with the number of records is missing: it was cut short")
    return Converted(declared)


def _crowdsec(source: BinaryIO, write: Callable[[str], object]) -> Converted:
    document = _json(source.read(), "not JSON")
    if isinstance(document, dict):
        if "new" not in document:  # the answer to a wrong key, for one
            raise Malformed('it is an object without "new"')
        document = document["new"]
    decisions = [] if document is None else document
    if not isinstance(decisions, list):
        raise Malformed("it must be a JSON array of decisions")
    skipped = 0
    for one in _decisions(decisions):
        if _bans(one):
            write(_line(one.get("value"), one.get("scenario")))
        else:
            skipped += 1
    return Converted(None, skipped)


def _decisions(documents: Iterable[object]) -> Iterator[dict[str, Any]]:
    """Decisions come alone, or inside the alerts that `cscli decisions list -o json` prints."""
    for one in documents:
        nested = one.get("decisions", [one]) if isinstance(one, dict) else [one]
        if not isinstance(nested, list | None) or not all(isinstance(each, dict) for each in nested or ()):
            raise Malformed("it must be a JSON array of decisions")
        yield from nested or ()


def _bans(decision: dict[str, Any]) -> bool:
    return (
        _text(decision.get("type", "ban")) == "ban"
        and _text(decision.get("scope", "ip")) in _SCOPES
        and not decision.get("simulated")
        and not _text(decision.get("duration")).startswith("-")  # it has ended
    )


def _text(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Malformed("the metadata's `records` is not a number")


def _json(data: bytes, complaint: str) -> Any:  # noqa: ANN401 (any JSON)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(complaint) from error


def _line(cidr: object, reason: object) -> str:
    word = _printable(cidr)
    # Anything but one word would count as more or fewer lines than the one record that it is.
    address = word if _WORD.fullmatch(word) else "?"
    return f"{address} # {_printable(reason)}" if reason else address


def _printable(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_WORD])
