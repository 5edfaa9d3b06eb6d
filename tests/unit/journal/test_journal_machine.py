"""Random histories of journal, committer, tree and workers, with a kill between any two steps.

Each event makes its handler append the event's id to a file and to the store, so that the files themselves
tell what was applied, and how often. `quiet` notifies nobody; `loud` waits for a proof.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentd.apply.worker import Worker
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Change, Context
from agentd.journal.entry import Outcome
from agentd.journal.history import history, replay, tidy
from tests.examples import LOOKS
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle
from tests.unit.conftest import ROOM
from tests.unit.kills import Fused, Kill
from tests.unit.tree.trees import generations

HANDLERS = ("quiet", "loud")
VERDICTS = (PermanentError("not proved"), TemporaryError("no master"), ValueError("bug"))
words = st.sampled_from(["", "", "", "refused", "failing"])
steps = st.sampled_from([0, *range(1, 10)])


class Appender(Scribe):
    """Appends the id of each event to its log, in the tree and in the store."""

    def handle(self, change: Change, context: Context) -> None:
        """Append, or fail as the payload says."""
        word = change.payload.decode()  # type: ignore[attr-defined]  # only events come here
        log = [*context.store.get("log", []), change.id]
        context.store["log"] = log
        context.files.write(f"{context.handler}/log", "\n".join(log).encode())
        if word == "refused":
            raise PermanentError("as it says")
        if word == "failing":
            raise TemporaryError("as it says")


class CoreMachine(Fused, RuleBasedStateMachine):
    """A daemon that is killed now and then, an operator, and a prover that is not always content."""

    @initialize()
    def begin(self) -> None:
        """The first start."""
        self.directory = Path(tempfile.mkdtemp(prefix="agentd-core-", dir=ROOM))
        self.stand = Stand(self.directory)
        self.fuse = 0
        self.received: dict[str, str] = {}  # id -> payload
        self.undone: set[str] = set()
        self.replays = Counter[str]()
        self.wire()

    def teardown(self) -> None:
        """In the end, with nothing in the way, everything has its outcome."""
        self.fuse = 0
        self.stand.check.clear()
        self.prover.verdicts.clear()
        for _ in range(3 * len(self.rows()) + 10):  # each may fail three times, one after the other
            self.stand.clock.now += 100
            for worker in self.workers.values():
                settle(worker)
        open_ones = [row for row in self.rows() if row["outcome"] is None]
        self.stand.journal.close()
        shutil.rmtree(self.directory)
        assert open_ones == []

    # ------------------------------------------------------------------ what the machine is made of

    def wire(self) -> None:
        """Workers on what is open now, with a fuse around each step that leaves something behind."""
        stand = self.stand
        for part, names in (
            (stand.committer.commits, ("prepare", "complete", "settle", "prove")),
            (stand.journal, ("end", "defer")),
            (stand.tree, ("_flip",)),
        ):
            for name in names:
                setattr(part, name, self.fused(getattr(part, name)))
        self.prover = Prover()
        self.workers: dict[str, Worker] = {
            "quiet": stand.raw_worker(Appender(), "quiet", provers=("prover",)),
            "loud": stand.raw_worker(Appender(), "loud", provers=("prover",), notify=("prover",)),
            "prover": stand.raw_worker(self.prover, "prover", provers=("prover",)),
        }
        fuse, self.fuse = self.fuse, 0
        stand.check.clear()
        stand.found(*self.workers.values())
        self.fuse = fuse

    def living(self, work: Callable[[], object]) -> None:
        """Work until it is done or killed; then the next process takes over."""
        try:
            work()
        except Kill:
            self.stand.restart()
            self.wire()
        self.fuse = 0

    def rows(self) -> list[dict[str, Any]]:
        """What the journal holds of the events."""
        return [row for row in history(self.stand.journal, limit=10_000) if row["kind"] == "event"]

    def log(self, handler: str) -> list[str]:
        """What is in the current generation."""
        return self.stand.files.get(f"{handler}/log", b"").decode().split()

    # ------------------------------------------------------------------ what may happen

    @rule(handler=st.sampled_from(HANDLERS), words=st.lists(words, min_size=1, max_size=4))
    def receive(self, handler: str, words: list[str]) -> None:
        """Events come, in one answer."""
        changes = [event(f"event-{len(self.received) + n}", word) for n, word in enumerate(words)]
        self.received |= {change.id: word for change, word in zip(changes, words, strict=True)}
        self.stand.receive(*changes, handler=handler)

    @precondition(lambda self: self.received)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """The operator wants an event handled once more."""
        identity = data.draw(st.sampled_from(sorted(self.received)))
        if all(row["id"] != identity for row in self.replayable()):
            return
        replay(self.stand.journal, identity)
        self.replays[identity] += 1

    def replayable(self) -> list[dict[str, Any]]:
        """Those whose payload is still there."""
        rows = self.stand.journal.database.rows("SELECT * FROM changes WHERE body IS NOT NULL")
        return [dict(row) for row in rows]

    @rule(word=words, fuse=steps)
    def loud_work(self, word: str, fuse: int) -> None:
        """An event comes, its worker handles it, and is perhaps killed at it."""
        self.work("loud", word, fuse)

    @rule(word=words, fuse=steps)
    def quiet_work(self, word: str, fuse: int) -> None:
        """The same where nobody is told."""
        self.work("quiet", word, fuse)

    def work(self, handler: str, word: str, fuse: int) -> None:
        """Receive, turn, and receive again, as Consul goes on to list it."""
        self.receive(handler, [word])
        self.fuse = fuse
        self.living(lambda: settle(self.workers[handler]))
        self.stand.receive(event(f"event-{len(self.received) - 1}", word), handler=handler)

    @rule(verdict=st.sampled_from([None, None, *VERDICTS]), fuse=steps)
    def prove(self, verdict: Exception | None, fuse: int) -> None:
        """The prover looks at what it was told, and is perhaps killed at it."""
        self.prover.verdicts = [verdict] if verdict else []
        self.stand.clock.now += 100
        self.fuse = fuse
        self.living(lambda: settle(self.workers["prover"]))

    @rule(name=st.sampled_from(HANDLERS))
    def retry(self, name: str) -> None:
        """Later a worker takes what waits, undisturbed."""
        self.stand.clock.now += 100
        settle(self.workers[name])

    @rule(error=st.sampled_from([TemporaryError("broken elsewhere"), PermanentError("not accepted")]))
    def check_fails(self, error: Exception) -> None:
        """The next check does not pass."""
        self.stand.check.append(error)

    @rule(back=st.integers(0, 4), fuse=steps)
    def roll_back(self, back: int, fuse: int) -> None:
        """The operator makes another generation current."""
        numbers = [generation.number for generation in generations(self.stand.tree)]
        to = numbers[-1 - back % len(numbers)]
        self.fuse = fuse
        self.living(lambda: self.stand.committer.roll_back(to, "by hand", ("prover",)))
        ended = {row["id"].partition("#")[0] for row in self.rows() if row["outcome"] == "applied"}
        self.undone = ended - {one for handler in HANDLERS for one in self.log(handler)}

    @rule(what=st.sampled_from(["restart", "tidy", "delete the tree"]))
    def household(self, what: str) -> None:
        """An orderly restart, the hourly broom, or somebody who deletes the tree, which is restored."""
        if what == "restart":
            self.stand.restart()
            self.wire()
        elif what == "tidy":
            tidy(self.stand.journal, keep=10, replayable=5)
        else:
            shutil.rmtree(self.stand.tree.path)
            self.stand.tree.restore()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every event that was received has one row, and one more for each replay."""
        if hasattr(self, "received"):
            rows = Counter(row["id"].partition("#")[0] for row in self.rows())
            assert rows == Counter(self.received.keys()) + self.replays

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        """No log holds an event more often than it was asked for."""
        if hasattr(self, "received"):
            asked = Counter(self.received.keys()) + self.replays
            for handler in HANDLERS:
                assert Counter(self.log(handler)) <= asked

    @invariant()
    def nothing_is_there_that_was_not_accepted(self) -> None:
        """What a refused or a failed call staged is never committed."""
        if hasattr(self, "received"):
            assert {self.received[one] for handler in HANDLERS for one in self.log(handler)} <= {""}

    @invariant()
    def what_is_applied_is_there(self) -> None:
        """Unless the operator took it back, and but for what another process forgot."""
        if hasattr(self, "received"):
            applied = {row["id"].partition("#")[0] for row in self.rows() if row["outcome"] == "applied"}
            there = {one for handler in HANDLERS for one in self.log(handler)}
            assert applied - there - self.undone == set()

    @invariant()
    def the_store_is_that_of_the_files(self) -> None:
        """Tree and journal never part."""
        if hasattr(self, "received"):
            for handler in HANDLERS:
                assert self.stand.journal.store(handler).get("log", []) == self.log(handler)

    @invariant()
    def current_is_whole(self) -> None:
        """It leads to a complete generation, and the journal knows which."""
        if hasattr(self, "received"):
            assert self.stand.tree.intact()
            assert self.stand.committer.commits.current() == self.stand.tree.current

    @invariant()
    def nobody_fails_for_the_faults_of_others(self) -> None:
        """What needs no proof fails by itself, by the check, or by the operator's hand."""
        if hasattr(self, "received"):
            ended = [row for row in self.rows() if row["handler"] == "quiet" and row["outcome"] == "failed"]
            sound = [row for row in ended if self.received[row["id"].partition("#")[0]] == ""]
            assert {row["reason"] for row in sound} <= {"by hand"}

    @invariant()
    def nothing_is_reported_twice(self) -> None:
        """An outcome is told at most once."""
        if hasattr(self, "received"):
            told = [ending.entry.id for ending in self.stand.endings if ending.entry.change.kind == "event"]
            assert len(told) == len(set(told))
            assert all(ending.outcome is not Outcome.EXPIRED for ending in self.stand.endings)


TestCore = CoreMachine.TestCase
TestCore.settings = settings(max_examples=LOOKS or 25, stateful_step_count=20)
