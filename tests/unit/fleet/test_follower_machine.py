"""A node that follows a log, under a hostile order of everything: each message once, in order, none lost."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentd.journal.entry import Ending, Outcome
from agentd.journal.followed import Followed
from agentd.journal.journal import Journal
from tests.examples import LOOKS
from tests.unit.fleet.test_follower import Bench


class FollowerMachine(RuleBasedStateMachine):
    """One node, its journal, its tree (`applied`, and what it keeps of the positions), and Consul."""

    @initialize()
    def begin(self) -> None:
        """A joiner."""
        self.stack = ExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="follow-")))
        self.directory = directory / "0"
        self.journals = 0
        self.bench = Bench(directory)
        self.published: list[int] = []
        self.applied: list[int] = []
        self.kept: dict[str, Any] = {}
        self.highest = 0
        self.backups: list[dict[str, bytes]] = [{}]

    def teardown(self) -> None:
        """Once Consul has all of it again, all of it arrives."""
        if not hasattr(self, "bench"):
            return
        self.whole()
        for _ in range(3):
            self.bench.turn()
            self.handle(range(1000))
        assert sorted(self.applied) == self.published
        self.bench.journal.close()
        self.stack.close()

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        """Somebody appends, to a log that is whole."""
        self.whole()
        self.published += [self.bench.publish(str(len(self.published))).num for _ in range(count)]
        self.backups = [*self.backups[-3:], dict(self.bench.shelf.values)]

    @rule(live=st.booleans())
    def answer(self, live: bool) -> None:  # noqa: FBT001 (a rule's)
        """The poll answers."""
        self.bench.turn(live=live)

    @rule(which=st.sets(st.integers(0, 8), max_size=5))
    def handle(self, which: Any) -> None:  # noqa: ANN401 (indexes)
        """Some of what waits is committed, together with the positions."""
        waiting = self.bench.journal.pending("deny")
        taken = [entry for at, entry in enumerate(waiting) if at in which]
        self.kept = Followed(self.bench.journal).kept([entry.seq for entry in taken])
        self.applied += [entry.change.index for entry in taken]
        self.bench.journal.end([Ending(entry, Outcome.APPLIED) for entry in taken])

    @rule()
    def restart(self) -> None:
        """The daemon is killed."""
        self.bench.restart()

    @rule()
    def lose_journal(self) -> None:
        """It comes back without its journal; the tree is there."""
        self.bench.journal.close()
        self.journals += 1
        path = self.directory.with_name(str(self.journals)) / "journal.db"
        self.bench.journal = Journal(path, clock=lambda: self.bench.now)
        Followed(self.bench.journal).restore(self.kept)
        self.highest = 0
        self.bench.restart()

    @rule(backup=st.integers(0, 3))
    def restore(self, backup: int) -> None:
        """Consul loses its data, or gets an older snapshot."""
        old = self.backups[min(backup, len(self.backups) - 1)]
        self.bench.shelf.values = dict(old)

    @rule()
    def outage(self) -> None:
        """The answer comes, and then nothing can be read."""
        self.bench.shelf.down = True
        self.bench.turn()
        self.bench.shelf.down = False

    @rule(junk=st.sampled_from([b"", b"{}", b"\xff"]))
    def poison(self, junk: bytes) -> None:
        """Somebody overwrites the head."""
        self.bench.shelf.values[self.bench.shelf.keys_of.head("ban")] = junk

    def whole(self) -> None:
        """The log was written back."""
        self.bench.shelf.values = dict(self.backups[-1])

    @invariant()
    def nothing_is_done_twice(self) -> None:
        """Whatever happened."""
        if hasattr(self, "bench"):
            assert len(set(self.applied)) == len(self.applied)

    @invariant()
    def what_waits_is_in_order(self) -> None:
        """As the log has it."""
        if hasattr(self, "bench"):
            waiting = [entry.change.index for entry in self.bench.journal.pending("deny")]
            assert waiting == sorted(set(waiting))

    @invariant()
    def the_position_never_falls(self) -> None:
        """Whatever Consul answers; only a node that lost its journal begins where its tree is."""
        if hasattr(self, "bench"):
            assert self.bench.position >= self.highest
            self.highest = self.bench.position


FollowerMachine.TestCase.settings = settings(
    max_examples=LOOKS or 20, stateful_step_count=25, deadline=None, derandomize=not LOOKS
)
TestFollower = FollowerMachine.TestCase
