"""Works out what this node has to acknowledge now, from the journal and what its handlers report.

Claims nothing that was not proved: a number is live once its generation is proved, and only while neither the
prover nor the handler itself finds drift. Reads the journal; what else there is to know, others look for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.accounts import Accounts
from agentd.config.load import ConfiguredHandler
from agentd.fleet.acknowledgement import ENDED_BADLY, EXEMPT, MOST_FAILED, HandlerReport, Name, Tried
from agentd.fleet.past import encode
from agentd.journal.commits import Commits
from agentd.journal.drift import Drifts
from agentd.journal.entry import BEFORE_START, Outcome
from agentd.journal.followed import Followed
from agentd.journal.journal import Journal
from agentd.journal.numbers import Attempted, Numbers
from agentd.journal.position import Position
from agentd.watch.changes import LOG

_DONE: Final = ("applied", "unchanged")


@dataclass(frozen=True, slots=True)
class Condition:
    """The part of an `Acknowledgement` that comes from the journal and the handlers."""

    generation: int
    names: Mapping[str, Name]
    handlers: Mapping[str, HandlerReport]
    options: Mapping[str, str]
    drift: Mapping[str, str]
    not_served: str = ""
    paused: str = ""


class Inspector:
    """Inspects the handlers of one configuration; any thread may call.

    Args:
        handlers: the configured handlers.
        journal: this node's journal.
        accounts: what the handlers report.
        generation: returns the current generation.
        damage: returns what is wrong with the tree; "" if nothing is.
        not_served: returns why nobody serves the current generation; "" if somebody does, or need not.
    """

    def __init__(
        self,
        handlers: Sequence[ConfiguredHandler],
        journal: Journal,
        accounts: Accounts,
        generation: Callable[[], int],
        damage: Callable[[], str],
        not_served: Callable[[], str],
    ) -> None:
        self._handlers = handlers
        self._followed = Followed(journal)
        self._drifts = Drifts(journal)
        self._commits = Commits(journal)
        self._numbers = Numbers(journal.database)
        self._database = journal.database
        self._accounts = accounts
        self._generation = generation
        self._damage = damage
        self._not_served = not_served
        self._options = {one.name: _digest(one) for one in handlers}
        self._names = {one.name: one.entry.kept for one in handlers}
        self._provers = {one.name for one in handlers if one.type.proves}
        self._last: tuple[tuple[object, ...], Condition] | None = None

    def look(self) -> Condition:
        """The current condition; worked out anew only if something was written or seen since the last look.

        Raises:
            JournalError: the journal cannot be read.
        """
        damage, generation, not_served = self._damage(), self._generation(), self._not_served()
        # Read before what they stand for, so that what changes meanwhile is seen at the next look.
        basis = (self._database.state(), self._accounts.changes, damage, generation, not_served)
        if self._last is None or self._last[0] != basis:
            self._last = basis, self._work_out(damage, generation, not_served)
        return self._last[1]

    def _work_out(self, damage: str, generation: int, not_served: str) -> Condition:
        drift = self._drift()
        positions = self._followed.positions()
        back = self._numbers.rolling_back(self._provers)
        found: dict[str, list[Name]] = {}
        reports = {}
        for one in self._handlers:
            shaken = _shaken(one, self._provers, drift, damage, back=back)
            live = {} if shaken else self._numbers.live(one.name)
            for name in self._names[one.name]:
                state = self._name(one.name, name, live, shaken, positions.get((one.name, name)))
                found.setdefault(name, []).append(state)
            reports[one.name] = self._report(one.name, live, drift.get(one.name, ""))
        return Condition(
            generation=generation,
            names={name: least(states) for name, states in found.items()},
            handlers=reports,
            options=self._options,
            drift={"tree": damage} if damage else {},
            not_served=not_served,
        )

    def _drift(self) -> dict[str, str]:
        """The drift by handler, in a sentence."""
        found: dict[str, list[str]] = {}
        for one in self._drifts.standing():
            found.setdefault(one.handler, []).append(f"{one.part}: {one.reason}")
        return {
            handler: first + (f" (and {len(more)} more)" if more else "")
            for handler, (first, *more) in found.items()
        }

    def _name(
        self, handler: str, name: str, live: Mapping[str, int], shaken: str, position: Position | None
    ) -> Name:
        query = f"{LOG}{name}"
        attempted = self._numbers.attempted(handler, query)
        num = live.get(name)
        tried = None
        if attempted:
            reason = attempted.reason
            if attempted.outcome in _DONE and (num is None or num < attempted.num):
                reason = shaken or "it was rolled back"
            exempt = attempted.outcome == Outcome.EXPIRED and reason == BEFORE_START
            tried = Tried(attempted.num, EXEMPT if exempt else attempted.outcome, reason)
        return Name(
            live=num,
            tried=tried,
            provisional=len(position.provisional) if position else 0,
            incomplete_since=position.incomplete_since if position else None,
            failed=_failures(self._numbers.failed(handler, query), tried),
        )

    def _report(self, handler: str, live: Mapping[str, int], drift: str) -> HandlerReport:
        account, ended = self._accounts.get(handler), self._numbers.ended(handler)
        # The account describes what was committed then: it counts only if just that is live.
        current = (
            account is not None
            and account.revision == self._commits.revision(handler)
            and live == self._numbers.committed(handler)
        )
        trouble = {"trouble": account.trouble} if account and account.trouble else {}
        return HandlerReport(
            names=self._names[handler],
            fingerprint=account.fingerprint if account and current else None,
            past=encode(self._accounts.states(handler)),
            outcome=ended.outcome if ended else "",
            at=ended.at if ended else None,
            drift=drift,
            report={**(account.report if account else {}), **trouble},
        )


def least(states: Iterable[Name]) -> Name:
    """Combine the handlers that take one name: what holds for all of them."""
    every = list(states)
    states = [one for one in every if not (one.tried and one.tried.outcome == EXEMPT)] or every
    lives = [one.live for one in states]
    worst = min(
        (one.tried for one in states if one.tried),
        key=lambda tried: (tried.outcome in _DONE, tried.num),
        default=None,
    )
    since = [one.incomplete_since for one in states if one.incomplete_since is not None]
    return Name(
        live=None if None in lives else min(one for one in lives if one is not None),
        tried=worst,
        provisional=max(one.provisional for one in states),
        incomplete_since=min(since, default=None),
        failed=_failures((each for one in states for each in (one.tried, *one.failed) if each), worst),
    )


def _failures(those: Iterable[Tried | Attempted], tried: Tried | None) -> tuple[Tried, ...]:
    """The newest failed messages, each once, without `tried`, which is reported anyway."""
    found = {
        one.num: Tried(one.num, one.outcome, one.reason)
        for one in those
        if one.outcome in ENDED_BADLY and not (tried and tried.num == one.num)
    }
    return tuple(found[num] for num in sorted(found, reverse=True)[:MOST_FAILED])


def _shaken(
    one: ConfiguredHandler, provers: set[str], drift: Mapping[str, str], damage: str, *, back: bool
) -> str:
    """Why nothing of the handler can be said to be in force; "" if it can."""
    told = provers.intersection(one.entry.notify)
    if damage:
        return f"the tree is damaged: {damage}"
    if back and told:
        return "rolled back to an earlier generation, which is not proved yet"
    return next((drift[name] for name in (one.name, *sorted(told)) if name in drift), "")


def _digest(one: ConfiguredHandler) -> str:
    """A digest that is equal on nodes where the handler gets the same changes and has the same options."""
    entry = one.entry.model_dump(mode="json", include={"use", "on", "options"})
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
