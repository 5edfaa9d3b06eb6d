"""What blacklists look like as their publishers serve them, and how each becomes plain lines.

Owns the formats: plain lines, FireHOL's netset, Spamhaus' JSON lines, CrowdSec's decisions. A format that
says how many entries it has is checked for it, because a list cut short looks like a good one otherwise.

Sources: https://iplists.firehol.org, https://www.spamhaus.org/drop/drop_v4.json,
https://docs.crowdsec.net/u/cscli/cscli_decisions_list
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

Format = Literal["plain", "firehol", "spamhaus", "crowdsec"]

_HEAD: Final = 4096
_ENTRIES: Final = re.compile(rb"^#[ \t]*Entries[ \t]*:[ \t]*([0-9][0-9,]{0,14})\b", re.MULTILINE)
_SCOPES: Final = frozenset({"ip", "range"})
_LONGEST_WORD: Final = 80


@dataclass(frozen=True, slots=True)
class Plain:
    """A list as plain lines.

    Attributes:
        text: the lines, or None if they are the source as it stands.
        declared: how many entries the source says it has; None if it does not.
        skipped: how many it has that name no address to block (another scope, a decision that ended).
    """

    text: bytes | None
    declared: int | None = None
    skipped: int = 0


class Malformed(ValueError):  # noqa: N818 (it says what the list is)
    """The source is not in its format."""


def detect(head: bytes) -> Format:
    """The format, by the first 4 KiB."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"[") or (start.startswith(b"{") and b'"new"' in start[:_HEAD]) or start == b"null":
        return "crowdsec"
    if start.startswith(b"{"):
        return "spamhaus"
    return "firehol" if _ENTRIES.search(head) else "plain"


def plain(data: bytes, form: Format) -> Plain:
    """Turn a source into plain lines, `CIDR # reason`.

    Raises:
        Malformed: it is not in this format.
    """
    if form == "plain":
        return Plain(None)
    if form == "firehol":
        found = _ENTRIES.search(data[: 16 * _HEAD])
        if found is None:
            raise Malformed("no `# Entries : N` in its header")
        return Plain(None, int(found[1].replace(b",", b"")))
    return _spamhaus(data) if form == "spamhaus" else _crowdsec(data)


def _spamhaus(data: bytes) -> Plain:
    lines: list[str] = []
    declared: int | None = None
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        record = _json(line, f"line {number} is not JSON")
        if not isinstance(record, dict):
            raise Malformed(f"line {number} is not a JSON object")
        if record.get("type") == "metadata":
            declared = _count(record.get("records"))
        else:
            lines.append(_line(record.get("cidr"), record.get("sblid")))
    if declared is None:
        raise Malformed("the line of metadata with the number of records is missing: it was cut short")
    return Plain(_text(lines), declared)


def _crowdsec(data: bytes) -> Plain:
    document = _json(data, "not JSON")
    decisions = document.get("new") if isinstance(document, dict) else document
    decisions = [] if decisions is None else decisions
    if not isinstance(decisions, list) or not all(isinstance(one, dict) for one in decisions):
        raise Malformed("a JSON array of decisions is needed")
    wanted = [one for one in _decisions(decisions) if _bans(one)]
    lines = [_line(one.get("value"), one.get("scenario")) for one in wanted]
    return Plain(_text(lines), None, sum(1 for _ in _decisions(decisions)) - len(wanted))


def _decisions(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Decisions stand alone, or within the alerts that `cscli decisions list -o json` prints."""
    for one in documents:
        nested = one.get("decisions")
        yield from (each for each in nested if isinstance(each, dict)) if isinstance(nested, list) else (one,)


def _bans(decision: dict[str, Any]) -> bool:
    return (
        str(decision.get("type", "ban")).lower() == "ban"
        and str(decision.get("scope", "ip")).lower() in _SCOPES
        and not decision.get("simulated")
        and not str(decision.get("duration", "")).startswith("-")  # it has ended
    )


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
    word = _word(cidr)
    # What is no word would be more or less than the one line that it counts for.
    address = word if word and not word.isspace() and word[0] not in "#;" else "?"
    return f"{address} # {_word(reason)}" if reason else address


def _word(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_WORD])


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
