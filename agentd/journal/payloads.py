"""Payloads that must leave the journal before their time: because of what they contain, or of whose they are.

An entry that waits for its handler keeps its payload, which the handler needs; one that is committed, and
waits only for its proof, keeps all of it but the secret. What is wiped is gone from all files of the journal,
also from those set aside: the pages are overwritten, and the write-ahead log is emptied.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, Final

from agentd.journal.journal import NEWEST, Journal
from agentd.journal.rows import STATE, WAITS
from agentd.watch.changes import LOG

_AT_ONCE: Final = 500
_SHORTEST: Final = 8  # bytes of a secret that is looked for
_AHEAD: Final = 3600.0  # seconds by which an entry may have ended in the future before the clock is wrong


def scrub(journal: Journal, secrets: Collection[bytes], joint: Collection[str] = ()) -> int:
    """Wipe the payloads of entries that contain one of these secrets, raw or in base64 or hex.

    Args:
        journal: the journal.
        secrets: what was replaced. One that is shorter than 8 bytes, without the white space around it, says
            nothing about what contains it, and is not looked for.
        joint: the handlers whose newest states stay, since they are made from those again.

    Returns:
        How many were wiped.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    needles = {form for secret in secrets if len(secret.strip()) >= _SHORTEST for form in _forms(secret)}
    if not needles:
        return 0
    seq, wiped = 0, 0
    while rows := journal.database.rows(
        "SELECT seq, body, outcome FROM changes WHERE body IS NOT NULL AND seq > ?"  # noqa: S608 (a constant)
        f" AND NOT ({WAITS}) AND NOT ({STATE} AND seq IN ({NEWEST})"
        " AND handler IN (SELECT value FROM json_each(?))) ORDER BY seq LIMIT ?",
        seq,
        json.dumps(sorted(joint)),
        _AT_ONCE,
    ):
        seq = rows[-1]["seq"]
        found = []
        for row in rows:
            body = json.loads(row["body"])
            clean = _without(body, needles)
            if clean != body:
                found.append((None if row["outcome"] else json.dumps(clean), row["seq"]))
        if found:
            with journal.database.transaction() as db:
                db.executemany("UPDATE changes SET body = ? WHERE seq = ?", found)
        wiped += len(found)
    _finish(journal)
    return wiped


def forget(journal: Journal, handler: str, life: float) -> None:
    """Wipe the payloads of the handler's entries that ended `life` seconds ago, except the newest states.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    now = journal.clock()
    which = (
        "handler = ?1 AND body IS NOT NULL AND (finished < ?2 OR finished > ?3)"
        f" AND NOT ({STATE} AND seq IN ({NEWEST}))"
    )
    values = handler, now - life, now + _AHEAD
    if journal.database.rows(f"SELECT 1 FROM changes WHERE {which} LIMIT 1", *values):  # noqa: S608 (constants)
        with journal.database.transaction() as db:
            db.execute(f"UPDATE changes SET body = NULL WHERE {which}", values)  # noqa: S608 (likewise)
        _finish(journal)


def forget_replaced(journal: Journal, handler: str, name: str) -> None:
    """Wipe the handler's messages of a name before the newest that it applied: a sealed one can be opened.

    Args:
        journal: the journal.
        handler: the configured handler.
        name: of a log in which each message replaces the ones before it.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    which = (
        "handler = ?1 AND query = ?2 AND body IS NOT NULL AND outcome IS NOT NULL AND seq <"
        " (SELECT max(seq) FROM changes WHERE handler = ?1 AND query = ?2"
        " AND outcome IN ('applied', 'unchanged'))"
    )
    values = handler, f"{LOG}{name}"
    if journal.database.rows(f"SELECT 1 FROM changes WHERE {which} LIMIT 1", *values):  # noqa: S608 (constants)
        with journal.database.transaction() as db:
            db.execute(f"UPDATE changes SET body = NULL WHERE {which}", values)  # noqa: S608 (likewise)
        _finish(journal)


def _finish(journal: Journal) -> None:
    journal.database.owes_flush = True
    finish(journal, patience=1.0)
    journal.database.forget_aside(journal.clock())


def finish(journal: Journal, patience: float = 0.1) -> None:
    """Empty the write-ahead log if that is still to be done, because another process was reading.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    if journal.database.owes_flush:
        journal.database.owes_flush = not journal.database.flush(patience)


def _forms(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield base64.b64encode(secret)
    yield secret.hex().encode()


def _without(value: Any, needles: Collection[bytes]) -> Any:  # noqa: ANN401 (JSON)
    """The value, each text in it that contains one of these, or is the base64 of such, replaced by ""."""
    if isinstance(value, dict):
        return {key: _without(one, needles) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, needles) for one in value]
    return "" if isinstance(value, str) and _contains(value, needles) else value


def _contains(text: str, needles: Collection[bytes]) -> bool:
    forms = [text.encode(errors="surrogatepass")]
    with suppress(binascii.Error):
        decoded = base64.b64decode(forms[0], validate=True)
        forms += [decoded, b"".join(decoded.split())]  # a key may be wrapped
    return any(needle in form for form in forms for needle in needles)
