"""Notifications, proofs, and what a failed proof undoes."""

from __future__ import annotations

import pytest

from agentd.apply.outcome import Ending, Outcome
from agentd.apply.worker import IDLE, Worker
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Change, Context, Notification
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle


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
    assert stand.journal.owed() == []


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
    assert stand.journal.owed() == []


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
