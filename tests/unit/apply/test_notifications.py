"""Notifications, proofs, and what a failed proof undoes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from agentd.apply import commit
from agentd.apply.worker import IDLE, Worker
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Change, Context, Notification, Verdict
from agentd.journal.entry import Ending, Outcome
from tests.unit.apply.stand import Prover, Pulse, Scribe, Stand, event, settle


class Pair:
    """A scribe that notifies a prover, both at work."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.prover = Prover()
        self.proving = stand.worker(self.prover, "prover", provers=("prover",))
        self.writing = self.scribe("scribe")
        settle(self.proving)
        self.prover.saw.clear()

    def scribe(self, name: str, *notify: str) -> Worker:
        """A worker of files; it notifies the prover."""
        return self.stand.worker(Scribe(), name, provers=("prover",), notify=notify or ("prover",))


@pytest.fixture
def pair(stand: Stand) -> Pair:
    """Scribe and prover."""
    return Pair(stand)


def test_a_change_is_applied_once_it_is_proved(pair: Pair, stand: Stand) -> None:
    """Until then it has no outcome, and it is not handled again."""
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    settle(pair.writing)
    between = stand.outcomes["a"]

    settle(pair.proving)

    assert between is None
    assert stand.outcomes == {"a": "applied"}
    assert pair.prover.saw == [stand.tree.current]
    assert stand.journal.unproved() == []


def test_where_there_is_nothing_to_prove_the_outcome_says_so(pair: Pair, stand: Stand) -> None:
    """The change is applied, in words of its own; the reload counts as skipped, and nothing stays owed."""
    stand.reloads.clear()
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    pair.prover.verdicts = ["nginx is not running"]

    settle(pair.proving)

    assert (stand.outcomes["a"], stand.reason("a")) == ("applied", "committed; nginx is not running")
    assert stand.reloads == ["skipped"]
    assert stand.journal.unproved() == []


def test_a_proof_and_a_failed_proof_are_counted(pair: Pair, stand: Stand) -> None:
    """Each under its own result."""
    stand.reloads.clear()
    pair.prover.verdicts = [None, PermanentError("no new workers")]
    for n in range(2):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(pair.writing)
        settle(pair.proving)

    assert stand.reloads[:2] == ["proved", "failed"]


def test_notifications_merge_into_the_newest(pair: Pair, stand: Stand) -> None:
    """Three commits need one proof, which ends all their changes."""
    for n in range(3):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(pair.writing)

    settle(pair.proving)

    assert len(pair.prover.saw) == 1
    assert set(stand.outcomes.values()) == {"applied"}
    assert stand.journal.pending("prover") == []


def test_a_disproof_flips_back_and_fails_the_change(pair: Pair, stand: Stand) -> None:
    """The tree, and the store with it, are as before, and that is proved in turn."""
    stand.receive(event("good", "write a=1; store k=1"))
    settle(pair.writing)
    settle(pair.proving)
    before = stand.tree.current
    pair.prover.verdicts = [PermanentError("[emerg] bind() failed")]
    stand.receive(event("bad", "write a=2; store k=2"))
    settle(pair.writing)

    settle(pair.proving)

    assert stand.tree.current == before
    assert stand.files == {"a": b"1"}
    assert stand.journal.store("scribe") == {"k": "1"}
    assert stand.outcomes == {"good": "applied", "bad": "failed"}
    assert stand.reason("bad") == "[emerg] bind() failed"
    assert pair.prover.saw[-2:] == [before + 1, before]


def test_a_disproof_fails_all_that_waited_for_it(pair: Pair, stand: Stand) -> None:
    """Nobody can tell which of several merged commits was to blame."""
    before = stand.tree.current
    pair.prover.verdicts = [PermanentError("no")]
    for n in range(2):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(pair.writing)

    settle(pair.proving)

    assert stand.tree.current == before
    assert stand.outcomes == {"e0": "failed", "e1": "failed"}


def test_what_needed_no_proof_is_handled_again_after_a_disproof(pair: Pair, stand: Stand) -> None:
    """A commit on top of a disproved one is undone with it, through no fault of its own."""
    quiet = stand.worker(Scribe(), "quiet", provers=("prover",))
    pair.prover.verdicts = [PermanentError("no")]
    stand.receive(event("bad", "write a=1"))
    settle(pair.writing)
    stand.receive(event("other", "write b=1"), handler="quiet")
    settle(quiet)
    settle(pair.proving)
    undone = dict(stand.files)

    settle(quiet)

    assert undone == {}
    assert stand.files == {"b": b"1"}
    assert stand.outcomes == {"bad": "failed", "other": "applied"}


def test_what_needed_no_proof_is_applied_with_the_proof_below_it(pair: Pair, stand: Stand) -> None:
    """It rides on an earlier commit's proof."""
    quiet = stand.worker(Scribe(), "quiet", provers=("prover",))
    stand.receive(event("first", "write a=1"))
    settle(pair.writing)
    stand.receive(event("other", "write b=1"), handler="quiet")
    settle(quiet)
    between = stand.outcomes["other"]

    settle(pair.proving)

    assert between is None
    assert stand.outcomes == {"first": "applied", "other": "applied"}


def test_a_proof_that_fails_for_now_is_never_given_up(pair: Pair, stand: Stand) -> None:
    """A reload owed outlives any number of attempts."""
    pair.prover.verdicts = [TemporaryError("no master")] * 20
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    for _ in range(20):
        settle(pair.proving)
        stand.clock.now += 61

    settle(pair.proving)

    assert len(pair.prover.saw) == 21
    assert stand.outcomes == {"a": "applied"}


def test_a_newer_notification_ends_the_wait_of_a_failed_proof(pair: Pair, stand: Stand) -> None:
    """A new generation may be provable at once."""
    pair.prover.verdicts = [TemporaryError("busy")]
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    waits = settle(pair.proving)
    stand.receive(event("b", "write a=2"))
    settle(pair.writing)

    settle(pair.proving)

    assert waits > 0
    assert stand.outcomes == {"a": "applied", "b": "applied"}


def test_what_is_merged_into_a_failed_proof_waits_for_the_same(pair: Pair, stand: Stand) -> None:
    """Else an older reason would be told for as long as the newer one holds."""
    pair.prover.verdicts = [TemporaryError("pid 7 hangs"), TemporaryError("the socket is gone")]
    for n in range(2):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(pair.writing)
        settle(pair.proving)

    assert {stand.reason(one.id) for one in stand.journal.pending("prover")} == {"the socket is gone"}


def test_a_disproof_with_nothing_to_go_back_to_stays_owed(stand: Stand) -> None:
    """The very first generation cannot be undone; its proof is tried again."""
    scribe = Scribe()
    writing = stand.raw_worker(scribe, provers=("prover",), notify=("prover",))
    prover = Prover()
    prover.verdicts = [PermanentError("port taken")]
    stand.found(writing, provers=("prover",))
    proving = stand.worker(prover, "prover", provers=("prover",))
    waits = settle(proving)
    stand.clock.now += 61

    settle(proving)

    assert waits > 0
    assert stand.tree.current == 1
    assert prover.saw == [1, 1]
    assert stand.journal.unproved() == []


def test_the_proof_of_a_rollback_flips_no_further(pair: Pair, stand: Stand) -> None:
    """What it went back to was proved once: the reload of it is tried until it succeeds."""
    pair.prover.verdicts = [PermanentError("no"), PermanentError("still no"), PermanentError("still no")]
    before = stand.tree.current
    stand.receive(event("bad", "write a=1"))
    settle(pair.writing)
    for _ in range(4):
        settle(pair.proving)
        stand.clock.now += 61

    assert stand.tree.current == before
    assert pair.prover.saw == [before + 1, before, before, before]
    assert stand.journal.pending("prover") == []


def test_a_proof_interrupted_by_a_kill_is_still_owed(pair: Pair, stand: Stand) -> None:
    """After the restart the same notification is handled, and its change ends."""
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    stand.restart()

    again = stand.worker(pair.prover, "prover", provers=("prover",))
    settle(again)

    assert stand.outcomes == {"a": "applied"}


def test_a_bug_in_a_proof_is_retried(pair: Pair, stand: Stand) -> None:
    """It neither proves nor disproves anything."""
    pair.prover.verdicts = [ZeroDivisionError()]
    stand.receive(event("a", "write a=1"))
    settle(pair.writing)
    settle(pair.proving)
    between = stand.outcomes["a"]
    stand.clock.now += 61

    settle(pair.proving)

    assert between is None
    assert stand.outcomes == {"a": "applied"}


# ---------------------------------------------------------------- told after a proof


@pytest.fixture
def chain(stand: Stand) -> tuple[Worker, Worker, Prover]:
    """A scribe's worker, that of the prover it notifies, and the prover; it notifies "after"."""
    prover = Prover()
    proving = stand.worker(prover, "prover", provers=("prover",), notify=("after",))
    writing = stand.worker(Scribe(), provers=("prover",), notify=("prover",))
    settle(proving)
    stand.journal.end([Ending(entry, Outcome.UNCHANGED) for entry in stand.journal.pending("after")])
    stand.told.clear()
    return writing, proving, prover


def heard(stand: Stand) -> list[Notification]:
    """What "after" is told."""
    changes = [entry.change for entry in stand.journal.pending("after")]
    return [change for change in changes if isinstance(change, Notification)]


def test_a_proof_tells_those_whom_the_prover_notifies(
    chain: tuple[Worker, Worker, Prover], stand: Stand
) -> None:
    """They hear of the proved generation, once a proof, and only after it."""
    writing, proving, _ = chain
    stand.receive(event("a", "write a=1"))
    settle(writing)
    between = heard(stand)

    settle(proving)

    assert between == []
    assert [one.generation for one in heard(stand)] == [stand.tree.current]
    assert stand.told == ["prover", "after"]


def test_a_proof_that_failed_tells_nobody(chain: tuple[Worker, Worker, Prover], stand: Stand) -> None:
    """Only the proof of the rollback tells."""
    writing, proving, prover = chain
    prover.verdicts = [PermanentError("no")]
    stand.receive(event("a", "write a=1"))
    settle(writing)

    settle(proving)

    assert [(one.generation, one.rollback) for one in heard(stand)] == [(stand.tree.current, True)]


# ---------------------------------------------------------------- holding


class Holder(Prover):
    """Holds as long as it is told to."""

    held = 0.0

    def hold(self, now: float, context: Context) -> float:
        """As told."""
        assert context.now == now
        return self.held


def test_a_handler_may_hold_what_waits(stand: Stand) -> None:
    """What comes meanwhile joins it."""
    holder = Holder()
    proving = stand.worker(holder, "prover", provers=("prover",))
    writing = stand.worker(Scribe(), provers=("prover",), notify=("prover",))
    settle(proving)
    holder.saw.clear()
    holder.held = 0.4
    for n in range(3):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(writing)
    waits = settle(proving)
    seen = list(holder.saw)
    holder.held = 0.0

    settle(proving)

    assert waits == 0.4
    assert seen == []
    assert len(holder.saw) == 1


def test_changes_can_be_held_too(stand: Stand) -> None:
    """`hold` is asked before changes, not only before notifications."""

    class Patient(Scribe):
        held = 5.0

        def hold(self, now: float, context: Context) -> float:
            return self.held if now >= 0 and context.generation else 0.0

    patient = Patient()
    worker = stand.worker(patient)
    stand.receive(event("a", "write a=1"))
    waits = settle(worker)
    patient.held = 0.0

    settle(worker)

    assert waits == 5.0
    assert stand.outcomes == {"a": "applied"}


# ---------------------------------------------------------------- handlers that are told and prove nothing


def test_a_handler_that_proves_nothing_takes_the_newest_notification(stand: Stand) -> None:
    """Older ones are merged into it."""
    told = Scribe()
    listening = stand.worker(told, "listener")
    writing = stand.worker(Scribe(), notify=("listener",))
    for n in range(3):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(writing)

    settle(listening)

    assert told.calls == [f"notification generation-{stand.tree.current}"]
    assert set(stand.outcomes.values()) == {"applied"}
    assert settle(listening) == IDLE


def test_a_notification_says_what_changed(stand: Stand) -> None:
    """Generation, handler and paths."""
    seen: list[Change] = []

    class Listener(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            super().handle(change, context)
            seen.append(change)

    listening = stand.worker(Listener(), "listener")
    writing = stand.worker(Scribe(), notify=("listener",))
    stand.receive(event("a", "write a=1; write b/c=1"))
    settle(writing)

    settle(listening)

    assert isinstance(seen[0], Notification)
    assert seen[0].generation == stand.tree.current
    assert seen[0].raw["by"] == "scribe"
    assert seen[0].raw["paths"] == ["a", "b/c"]
    assert not seen[0].rollback


def test_a_commit_that_changes_nothing_notifies_nobody(stand: Stand) -> None:
    """The second identical change tells nobody."""
    writing = stand.worker(Scribe(), notify=("listener",))
    stand.receive(event("a", "write a=1"))
    settle(writing)
    stand.told.clear()
    stand.receive(event("b", "write a=1"))

    settle(writing)

    assert stand.told == []


# ---------------------------------------------------------------- before a proof, and asked for


def reload_due(stand: Stand) -> None:
    """Commit something of which the prover is notified."""
    stand.receive(event("first", "write a=1"))
    settle(stand.worker(Scribe(), provers=("prover",), notify=("prover",)))


def test_who_is_told_of_a_proof_looks_before_it(stand: Stand) -> None:
    """What it commits then is part of what is proved."""
    scribe = stand.worker(Scribe(), "told")
    asked: list[Sequence[str]] = []

    def look(names: Sequence[str]) -> Sequence[str]:
        asked.append(names)
        stand.receive(event("late", "write down=1"), handler="told")
        settle(scribe)
        return ()

    prover = Prover()
    proving = stand.worker(prover, "prover", provers=("prover",), notify=("told",), settle=look)
    reload_due(stand)

    settle(proving)

    assert asked == [("told",)]
    assert prover.saw == [stand.tree.current]
    assert stand.files["down"] == b"1"


class Restless(Prover):
    """Asks for a reload once, in timed work or when it verifies."""

    asks = ""

    def due(self, now: float, context: Context) -> float | None:
        """Ask, if it is to be here."""
        self._ask("due", context)
        return now + 60

    def verify(self, context: Context) -> Verdict:
        """The same."""
        self._ask("verify", context)
        return Verdict()

    def _ask(self, where: str, context: Context) -> None:
        if self.asks == where:
            self.asks = ""
            context.reload()


@pytest.mark.parametrize("where", ["due", "verify"])
def test_a_reload_that_a_prover_asks_for_takes_the_same_path(stand: Stand, where: str) -> None:
    """Those whom it notifies look before it, and are told of the proof."""
    asked: list[Sequence[str]] = []

    def look(names: Sequence[str]) -> Sequence[str]:
        asked.append(names)
        return ()

    prover = Restless()
    proving = stand.worker(prover, "prover", provers=("prover",), notify=("after",), settle=look)
    settle(proving)
    stand.clock.now += 61
    asked.clear()
    prover.saw.clear()
    told = len(heard(stand))
    prover.asks = where
    settle(proving)

    settle(proving)

    assert (asked, prover.saw) == ([("after",)], [stand.tree.current])
    assert len(heard(stand)) == told + 1


def test_a_proof_does_not_wait_forever(stand: Stand) -> None:
    """It goes on without the one that did not look in time."""
    prover = Prover()
    proving = stand.worker(
        prover, "prover", provers=("prover",), notify=("told",), settle=lambda names: names
    )
    reload_due(stand)

    settle(proving)

    assert prover.saw == [stand.tree.current]


@pytest.mark.parametrize("asks", [True, False])
def test_a_commit_is_proved_if_it_asks_for_a_reload(stand: Stand, asks: bool) -> None:  # noqa: FBT001 (parametrized)
    """By those that notify its handler; otherwise it is applied as it stands."""
    worker = stand.worker(Scribe(), "told", provers=("prover",), told_by=("prover",))
    stand.told.clear()
    stand.receive(event("a", f"write a=1{'; reload' * asks}"), handler="told")

    settle(worker)

    assert stand.told == ["prover"] * asks
    assert stand.outcomes == {"a": None if asks else "applied"}


def test_a_commit_in_between_has_the_told_look_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they saw before it may be seconds old by then, and the reload would lose what was set since."""
    monkeypatch.setattr(commit, "_BEAT_EVERY", 0.01)
    looks: list[int] = []
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with stand.committer.pinned():
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=hold)

    class WhileWaiting(Pulse):
        def beat(self, good_for: float) -> None:
            super().beat(good_for)
            if looks:
                leave.set()

    def look(_names: Sequence[str]) -> Sequence[str]:
        if looks:
            other.join(60)
        else:
            other.start()
            entered.wait(60)
        looks.append(stand.tree.current)
        return ()

    prover = Prover()
    worker = stand.raw_worker(
        prover, "prover", provers=("prover",), notify=["told"], settle=look, heartbeat=WhileWaiting()
    )
    stand.found(worker, provers=("prover",))

    settle(worker)

    assert (len(looks), len(prover.saw)) == (2, 1)
