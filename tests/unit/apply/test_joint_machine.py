"""Random histories of a joint handler, killed between any two steps: in the end it has the newest states."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.examples import LOOKS
from tests.unit.apply.stand import Stand, settle, state
from tests.unit.apply.test_joint import ON, Sum
from tests.unit.conftest import ROOM
from tests.unit.kills import Fused, Kill

KEYS = ("a", "b")


class JointMachine(Fused, RuleBasedStateMachine):
    """A handler of two keys, an operator who pauses it and configures it anew, and kills."""

    @initialize()
    def begin(self) -> None:
        """The first start."""
        self.directory = Path(tempfile.mkdtemp(prefix="agentd-joint-", dir=ROOM))
        self.stand = Stand(self.directory)
        self.newest: dict[str, str] = {}
        self.written = {b""}
        self.index = self.fuse = self.configurations = 0
        self.wire()

    def teardown(self) -> None:
        """In the end, with good values and nothing in the way, the file has them."""
        self.stand.pauses.resume(None)
        for key in KEYS:
            self.receive(key, "last")
        for _ in range(8):
            self.stand.clock.now += 100
            settle(self.worker)
        files, waiting = self.stand.files, self.stand.journal.pending("scribe")
        self.stand.journal.close()
        shutil.rmtree(self.directory)
        assert (files, waiting) == ({"sum": b"last last"}, [])

    def wire(self) -> None:
        """A worker on what is open now, with a fuse around each step that leaves something behind."""
        stand, fuse, self.fuse = self.stand, self.fuse, 0
        for part, names in (
            (stand.committer.commits, ("prepare", "complete", "settle")),
            (stand.journal, ("end", "defer", "hold", "try_again")),
            (stand.tree, ("_flip",)),
        ):
            for name in names:
                setattr(part, name, self.fused(getattr(part, name)))
        self.worker = stand.worker(Sum(), on=ON)
        self.fuse = fuse

    @rule(key=st.sampled_from(KEYS), value=st.sampled_from(["1", "2", "3", "bad"]))
    def receive(self, key: str, value: str) -> None:
        """Consul has another value."""
        self.index += 1
        self.newest[key] = value
        self.stand.receive(state(value, self.index, key=key))
        self.written.add(" ".join(self.newest.get(one, "") for one in KEYS).encode())

    @rule(fuse=st.sampled_from([0, 0, *range(1, 10)]))
    def work(self, fuse: int) -> None:
        """Later the worker takes what waits, and is perhaps killed at it."""
        self.stand.clock.now += 100
        self.fuse = fuse
        try:
            settle(self.worker)
        except Kill:
            self.stand.restart()
            self.wire()
        self.fuse = 0

    @rule()
    def restart(self) -> None:
        """The daemon is killed while nothing is going on."""
        self.stand.restart()
        self.wire()

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:  # noqa: FBT001 (drawn)
        """The operator holds changes back, or lets them go on."""
        if paused:
            self.stand.pauses.pause(["scribe"], "", None)
        else:
            self.stand.pauses.resume(None)

    @rule()
    def reconfigure(self) -> None:
        """Its configuration is another, so that it gets its states again."""
        self.configurations += 1
        self.stand.journal.reconfigured("scribe", str(self.configurations), {"key:a", "key:b"})

    @invariant()
    def the_file_is_made_of_states_that_were_newest_together(self) -> None:
        """Never of an old one beside a new one, of one that is missing, or of one that is refused."""
        found = self.stand.files.get("sum", b"")
        assert found in self.written
        assert b"bad" not in found


TestJoint = JointMachine.TestCase
TestJoint.settings = settings(max_examples=LOOKS or 10, stateful_step_count=20, deadline=None)
