"""The position of each configured handler in the log of each kept name, and the messages queued for it.

Messages are queued and the position moves in one transaction, so a kill at any instruction neither loses a
message nor queues it twice. An event that was applied provisionally, while the log could not be reached, is
queued again in the log's order, unless the handler runs only once per event. Nothing here reads the log.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from agentd.journal.entry import BEFORE_START, Ending, Outcome
from agentd.journal.journal import Journal
from agentd.journal.numbers import Numbers, note
from agentd.journal.position import Position
from agentd.journal.rows import (
    SAME_ID,
    WAITS,
    close,
    ending_of,
    free_id,
    insert,
    insert_refused,
    parsed,
    same_id,
)
from agentd.journal.steps import Steps
from agentd.watch.changes import LOG, Event

_FLEET: Final = "fleet"  # the key in table `watched` of the fleet whose log is followed
_MOST_REMEMBERED: Final = 4096  # IDs of provisional events; each is dropped once its message has come
_MOST_OWED: Final = 256
_PLACE: Final = 6  # hex digits
_AS_HEARD: Final = "it was already handled provisionally, and this handler runs only once per event"


@dataclass(slots=True)
class Given:
    """What `Followed.give` did.

    Attributes:
        queued: the queued messages, each with the handlers for which it waits now.
        endings: the outcomes of messages that a handler is not to run: again, or so late.
    """

    queued: list[tuple[Event, list[str]]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)


class Followed:
    """The positions in a journal. Every method is one transaction, and may be called from any thread.

    Attributes:
        REFUSED: the beginning of the IDs of messages that were not believed: their numbers are claims.

    Raises:
        JournalError: from every method, if the file cannot be read or written.
    """

    REFUSED: ClassVar[str] = "refused:"

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database
        self._steps = Steps(journal.database)
        self._clock = journal.clock

    def positions(self) -> dict[tuple[str, str], Position]:
        """All positions, by handler and name."""
        rows = self._database.rows("SELECT handler, name, body FROM followed")
        return {(row["handler"], row["name"]): Position.of(parsed(row["body"])) for row in rows}

    def place(self, handler: str, names: Collection[str]) -> str:
        """A digest of how far a handler has come in the logs of these names.

        Equal on two nodes that have committed the same messages. Messages that are for some nodes only count
        as well, unless a later message has replaced them.
        """
        # Workers ask every second, and most handlers follow no log.
        numbers = Numbers(self._database).committed(handler) if names else {}
        positions = self.positions() if names else {}
        found: list[tuple[str, int, list[int]]] = []
        for name in names:
            num, at = numbers.get(name, 0), positions.get((handler, name), Position())
            found.append((name, num, at.targeted_below(num)))
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:_PLACE]

    def belong_to(self, fleet: str) -> None:
        """Follow the log of this fleet. Positions in the log of another fleet are dropped."""
        with self._database.transaction() as db:
            if (known := _fleet(db)) != fleet:
                if known:
                    db.execute("DELETE FROM followed")
                db.execute("INSERT OR REPLACE INTO watched VALUES (?, ?)", (_FLEET, json.dumps(fleet)))

    def join(self, handler: str, name: str) -> Position:
        """The handler's position; a handler that did not follow the name does from now on."""
        with self._database.transaction() as db:
            known, now = _read(db, handler, name), self._clock()
            found = (known or Position(joined=now)).at(now)
            if found != known:
                _write(db, handler, name, found)
            return found

    def give(  # noqa: PLR0913 (all that it depends on, named at the one call)
        self,
        name: str,
        handlers: Mapping[str, bool],
        messages: Sequence[Event],
        upto: int,
        *,
        cut: int = 0,
        pruned: int = 0,
        latest: bool = False,
        there: int = 0,
    ) -> Given:
        """Queue messages for the handlers that do not have them, and move the positions.

        Args:
            name: the kept name.
            handlers: the handlers, each with its `Handler.runs_once`.
            messages: the messages, in order; each has its number as its index.
            upto: the number up to which `messages` has everything new that concerns this node.
            cut: the number up to which messages were pruned before they expired; see `Head`.
            pruned: the number up to which messages were pruned at all, also those that a snapshot replaces.
            latest: whether each message replaces the ones before it.
            there: the number of the newest message if this node did not follow the log before; otherwise 0.
        """
        given, now = Given(), self._clock()
        queued: dict[int, list[str]] = {}
        with self._database.transaction() as db:
            for handler, once in handlers.items():
                before = (_read(db, handler, name) or Position(joined=now)).at(now, there)
                news = [one for one in messages if before.wants(one.index)]
                for message in news:
                    known = _known(db, handler, message)
                    is_known = (message.query, message.index) in known
                    if is_known and not before.repeats(message.index):
                        continue  # the position was lost, but not the row
                    heard = bool(known) or message.id in before.provisional
                    if ending := self._queue(db, handler, message, before, heard=heard, once=once):
                        given.endings.append(ending)
                    else:
                        before = before.running(message.message)
                        queued.setdefault(message.index, []).append(handler)
                reach = 0 if latest or (once and _is_before_start(cut, before)) else cut
                gone = 0 if latest or (once and _is_before_start(pruned, before)) else pruned
                _write(db, handler, name, before.moved(news, upto, reach, gone, latest=latest))
        given.queued = [(one, queued[one.index]) for one in messages if one.index in queued]
        return given

    def owe(self, name: str, handlers: Iterable[str], numbers: Sequence[int], late: Iterable[int]) -> None:
        """Give the handlers late messages, and again everything after them, to keep the log's order.

        Args:
            name: the kept name.
            handlers: the handlers that follow it.
            numbers: the numbers of all its messages, ascending.
            late: the numbers of messages that entered the log below ones that were already given.
        """
        query = f"{LOG}{name}"
        with self._database.transaction() as db:
            for handler in handlers:
                at = _read(db, handler, name) or Position(joined=self._clock())
                rows = db.execute(
                    "SELECT idx FROM changes WHERE handler = ? AND query = ? AND substr(id, 1, ?) <> ?",
                    (handler, query, len(self.REFUSED), self.REFUSED),
                )
                known = {int(row["idx"]) for row in rows}
                missed = [num for num in late if num <= at.num and num not in known]
                if missed:
                    first = min(missed)
                    owed = {*at.owed, *(num for num in numbers if first <= num <= at.num)}
                    late_since = first if at.late is None else min(first, at.late)
                    _write(db, handler, name, replace(at, owed=tuple(sorted(owed)), late=late_since))

    def give_again(self, handler: str, names: Iterable[str]) -> None:
        """Have the handler given the newest message of each of these names again: what it made of it is lost.

        Until then none of them is in force.
        """
        in_force = Numbers(self._database).committed(handler)
        with self._database.transaction() as db:
            for name in names:
                at = _read(db, handler, name)
                if at is None or not at.num:
                    continue
                owed = {*at.owed, at.num, in_force.get(name, at.num)}
                _write(db, handler, name, replace(at, owed=tuple(sorted(owed)), late=min(owed)))
                db.execute("DELETE FROM numbers WHERE handler = ? AND name = ?", (handler, name))

    def refuse(self, handlers: Iterable[str], message: Event, reason: str) -> list[Ending]:
        """Record for the handlers that a message is not believed; no position moves.

        Args:
            handlers: who would have been given it.
            message: what is said of it: an ID that begins with `REFUSED`, and its number as its index.
            reason: why.

        Returns:
            How it ended, for the handlers for which that was not recorded yet.
        """
        now = self._clock()
        with self._database.transaction() as db:
            endings = [insert_refused(db, one, message.id, message, reason, now) for one in handlers]
        return [one for one in endings if one]

    def _queue(
        self, db: sqlite3.Connection, handler: str, message: Event, at: Position, *, heard: bool, once: bool
    ) -> Ending | None:
        """Queue a message for a handler. Returns its outcome if the handler is not to run it."""
        identity = free_id(db, handler, message.id)
        insert(db, handler, identity, message, self._clock())
        if once and heard:
            ending = self._end(db, handler, identity, Outcome.UNCHANGED, _AS_HEARD)
            if _was_done(db, handler, message.id, before=ending.entry.seq):
                note(db, [ending.entry.seq])
            return ending
        if not once or message.message is None:
            return None
        if at.predates(message.message, self._clock()):
            return self._end(db, handler, identity, Outcome.EXPIRED, BEFORE_START)
        first = at.ran_since(message.message)
        found = None if first is None else self._steps.at_arrival(db, handler, message, first, at.joined)
        if found is None:
            return None
        ending = self._end(db, handler, identity, found.outcome, found.reason)
        if found.counts:
            note(db, [ending.entry.seq])
        return ending

    def _end(
        self, db: sqlite3.Connection, handler: str, identity: str, outcome: Outcome, reason: str
    ) -> Ending:
        which = "SELECT * FROM changes WHERE handler = ? AND id = ?"
        ending = ending_of(db.execute(which, (handler, identity)).fetchone(), outcome, reason, self._clock())
        close(db, ending, self._clock())
        return ending

    def waiting(self, handlers: Iterable[str], name: str) -> tuple[int, int]:
        """How many messages of the name wait for the handler with the longest queue, and their bytes."""
        rows = self._database.rows(
            "SELECT count(*) AS n, sum(length(body)) AS size FROM changes"  # noqa: S608 (a constant)
            f" WHERE handler IN (SELECT value FROM json_each(?)) AND query = ? AND {WAITS} GROUP BY handler",
            json.dumps(list(handlers)),
            f"{LOG}{name}",
        )
        return max(((row["n"], row["size"] or 0) for row in rows), default=(0, 0))

    def give_provisionally(self, handlers: Iterable[str], event: Event) -> list[str]:
        """Queue an event as heard, since the log cannot be reached; its message follows later.

        Returns:
            The handlers for which it was queued: those that did not have it.
        """
        event = replace(event, raw=event.raw | {"Provisional": True})
        with self._database.transaction() as db:
            fresh = [one for one in handlers if insert(db, one, event.id, event, self._clock())]
            for handler in fresh:
                at = _read(db, handler, event.name) or Position(joined=self._clock())
                ids = (*at.provisional, event.id)[-_MOST_REMEMBERED:]
                _write(db, handler, event.name, replace(at, provisional=ids))
        return fresh

    # ------------------------------------------------------------------ beside the tree

    def kept(self, taken: Collection[int] = ()) -> dict[str, Any]:
        """The positions and the messages still owed, for the tree's manifest, in case the journal is lost.

        Args:
            taken: the entries (their seqs) that the new generation contains, so that they are not owed.
        """
        found: dict[str, dict[str, Any]] = {}
        for (handler, name), at in self.positions().items():
            owed = sorted({*self._owed(handler, name, taken), *at.owed})
            # If more are owed, start over from there: messages are handled in order, so few are repeated.
            num = owed[_MOST_OWED] - 1 if len(owed) > _MOST_OWED else at.num
            kept = replace(at, num=num, owed=tuple(owed[:_MOST_OWED]))
            found.setdefault(handler, {})[name] = kept.kept()
        with self._database.transaction() as db:
            fleet = _fleet(db)
        return {"fleet": fleet, "positions": found} if found else {}

    def _owed(self, handler: str, name: str, taken: Collection[int]) -> list[int]:
        rows = self._database.rows(
            f"SELECT idx FROM changes WHERE handler = ? AND query = ? AND {WAITS}"  # noqa: S608 (a constant)
            " AND seq NOT IN (SELECT value FROM json_each(?))",
            handler,
            f"{LOG}{name}",
            json.dumps(list(taken)),
        )
        return sorted({int(row["idx"]) for row in rows})

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Restore the positions that `kept` returned, where there are none.

        Messages that were given since then are unknown. To run none twice, a handler that runs only once per
        event skips whatever was issued before now.
        """
        with self._database.transaction() as db:
            if fleet := kept.get("fleet"):
                db.execute("INSERT OR IGNORE INTO watched VALUES (?, ?)", (_FLEET, json.dumps(fleet)))
            for handler, names in kept.get("positions", {}).items():
                for name, body in names.items():
                    if _read(db, handler, name) is None:
                        _write(
                            db, handler, name, replace(Position.of(body), joined=self._clock(), there=None)
                        )


def _known(db: sqlite3.Connection, handler: str, message: Event) -> set[tuple[str, int]]:
    """The queries and indexes under which the handler was given this before; a log's index is the number."""
    rows = db.execute(
        f"SELECT query, idx FROM changes WHERE handler = ? AND {SAME_ID}",  # noqa: S608 (a constant)
        (handler, *same_id(message.id)),
    )
    return {(row["query"], int(row["idx"])) for row in rows}


def _was_done(db: sqlite3.Connection, handler: str, identity: str, *, before: int) -> bool:
    """Whether an earlier row of that change was applied or unchanged."""
    return bool(
        db.execute(
            "SELECT 1 FROM changes WHERE handler = ? AND (id = ? OR substr(id, 1, ?) = ?) AND seq < ?"
            " AND outcome IN ('applied', 'unchanged')",
            (handler, identity, len(identity) + 1, f"{identity}#", before),
        ).fetchone()
    )


def _is_before_start(num: int, at: Position) -> bool:
    """Whether a message is older than the handler's first start, for a handler without messages so far.

    A number is at least the time at which it was assigned, in unix milliseconds.
    """
    return at.num == 0 and num <= max(at.joined * 1000, at.there or 0)


def _fleet(db: sqlite3.Connection) -> str:
    """The fleet whose log is followed; "" if none was so far."""
    row = db.execute("SELECT body FROM watched WHERE query = ?", (_FLEET,)).fetchone()
    return "" if row is None else str(parsed(row["body"]))


def _read(db: sqlite3.Connection, handler: str, name: str) -> Position | None:
    row = db.execute("SELECT body FROM followed WHERE handler = ? AND name = ?", (handler, name)).fetchone()
    return None if row is None else Position.of(parsed(row["body"]))


def _write(db: sqlite3.Connection, handler: str, name: str, at: Position) -> None:
    db.execute("INSERT OR REPLACE INTO followed VALUES (?, ?, ?)", (handler, name, json.dumps(at.kept())))
