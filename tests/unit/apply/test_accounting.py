"""A handler is asked what it tells the fleet whenever its files or its store have moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agentd.accounts import Account, Accounts
from agentd.apply.worker import Worker
from agentd.errors import TemporaryError
from agentd.handler import Context
from agentd.journal.commits import Commits
from tests.unit.apply.stand import Scribe, Stand, event, settle


class Teller(Scribe):
    """Tells what is in its store.

    Attributes:
        asked: how often it was.
        tells: what it tells instead, or raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.tells: Callable[[], Any] | None = None

    def fingerprint(self, context: Context) -> str | None:
        """What A is."""
        self.asked += 1
        context.files.write("STAGED", b"and dropped")
        if self.tells:
            told: str | None = self.tells()
            return told
        return str(context.store.get("A", "nothing"))

    def report(self, context: Context) -> Mapping[str, Any]:
        """The same for any handler."""
        return {"generation": context.generation}


def teller(stand: Stand) -> tuple[Teller, Worker, Accounts, list[None]]:
    """A handler that tells, its worker, where it tells, and how often there were news."""
    news: list[None] = []
    accounts, handler = Accounts(lambda: news.append(None)), Teller()
    worker = stand.raw_worker(handler, accounts=accounts)
    stand.found(worker)
    return handler, worker, accounts, news


def test_it_is_asked_at_the_start_and_after_what_it_did(stand: Stand) -> None:
    """What it stages is dropped; while nothing moves, it is left alone."""
    handler, worker, accounts, news = teller(stand)
    settle(worker)
    first = accounts.get("scribe")
    stand.receive(event("a", "store A=1"))
    settle(worker)
    stand.clock.now += 1000
    settle(worker)

    assert first is not None
    assert first == Account(first.revision, "nothing", {"generation": 1}, place=first.place)
    found = accounts.get("scribe")
    assert found is not None
    assert found.fingerprint == "1"
    assert found.revision == stand.committer.commits.revision("scribe")
    assert (handler.asked, len(news), stand.files) == (2, 2, {})


def test_it_is_asked_after_a_rollback(stand: Stand) -> None:
    """An operator's, which the worker has nothing to do with."""
    _, worker, accounts, _ = teller(stand)
    for value in (1, 2):
        stand.receive(event(f"e{value}", f"store A={value}; write A={value}"))
        settle(worker)
    stand.committer.roll_back(2, "by hand", ())

    settle(worker)

    found = accounts.get("scribe")
    assert found is not None
    assert found.fingerprint == "1"


@pytest.mark.parametrize(
    "tells,trouble",
    [
        (lambda: 1 / 0, "bug in the handler: ZeroDivisionError, see the log"),
        (lambda: "x" * 129, "bug in the handler: ValueError, see the log"),
        (lambda: 7, "bug in the handler: ValueError, see the log"),
    ],
    ids=["raises", "too long", "no text"],
)
def test_what_it_gets_wrong_is_told_and_harms_nothing(
    stand: Stand, tells: Callable[[], Any], trouble: str
) -> None:
    """Its changes go on."""
    handler, worker, accounts, _ = teller(stand)
    handler.tells = tells
    stand.receive(event("a", "write A=1"))

    settle(worker)

    found = accounts.get("scribe")
    assert found is not None
    assert (found.fingerprint, found.trouble) == (None, trouble)
    assert stand.outcomes == {"a": "applied"}


def test_what_it_cannot_say_now_is_asked_again_a_minute_later(stand: Stand) -> None:
    """Not sooner."""
    handler, worker, accounts, _ = teller(stand)

    def cannot() -> str:
        raise TemporaryError("the kernel is busy")

    handler.tells = cannot
    settle(worker)
    stand.clock.now += 59
    settle(worker)
    asked = handler.asked
    handler.tells = None
    stand.clock.now += 2
    settle(worker)

    found = accounts.get("scribe")
    assert found is not None
    assert (asked, found.fingerprint, found.trouble) == (1, "nothing", "")


def test_the_journal_is_read_only_after_something_was_written_to_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker looks every second, and most of the time nothing has moved."""
    reads: list[str] = []
    revision = Commits.revision

    def counted(commits: Commits, handler: str) -> int:
        reads.append(handler)
        return revision(commits, handler)

    _, worker, accounts, _ = teller(stand)
    settle(worker)
    monkeypatch.setattr(Commits, "revision", counted)
    settle(worker)
    settle(worker)
    idle = len(reads)
    stand.receive(event("a", "store A=1"))
    settle(worker)

    found = accounts.get("scribe")
    assert found is not None
    assert (idle, found.fingerprint) == (0, "1")
    assert reads


def test_without_a_fleet_it_is_not_asked(stand: Stand) -> None:
    """Nobody wants to know."""
    handler = Teller()
    worker = stand.worker(handler)

    settle(worker)

    assert handler.asked == 0
