"""Random histories of secrets outside the tree: rotations, boots, kills, and a changed place.

After every step nginx can read, through `current`, what was committed last or what the step was to commit,
and the disk has no secret that was never to be there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentd.tree.tree import Tree
from agentd.tree.vault import Vault
from tests.examples import LOOKS
from tests.unit.tree.faults import killed_at
from tests.unit.tree.test_tree_vault import live, on_disk, stored
from tests.unit.tree.trees import new_tree, unprepared

PLACES = ("run", "other", None)
edits = st.dictionaries(
    st.sampled_from(["k/a", "k/b", "k/c"]), st.none() | st.integers(0, 5).map(lambda n: b"secret %d" % n)
)
steps = st.integers(1, 120)


class VaultMachine(RuleBasedStateMachine):
    """One tree, whose daemon dies now and then."""

    @initialize(place=st.sampled_from(PLACES))
    def begin(self, place: str | None) -> None:
        """An empty tree."""
        self.directory = Path(tempfile.mkdtemp(prefix="agentd-vault-"))
        self.place = place
        self.now: dict[str, bytes] = {}
        self.start()

    def teardown(self) -> None:
        """Nothing stays on disk."""
        shutil.rmtree(self.directory)

    def opened(self) -> Tree:
        """The tree as a new process sees it."""
        vault = Vault(self.directory / self.place if self.place else None)
        return new_tree(self.directory, keep=3, vault=vault)

    def start(self) -> None:
        """A new process."""
        self.tree = self.opened()
        self.tree.recover()

    def edit(self, edit: dict[str, Any]) -> dict[str, bytes]:
        """Commit an edit as the daemon does. Returns what it makes of the model."""
        stage, expected = self.tree.stage("one"), dict(self.now)
        for path, data in edit.items():
            if data is None:
                stage.remove(path)
                expected.pop(path, None)
            else:
                stage.write(path, data, mode=0o600, secret=True)
                expected[path] = data
        self.tree.commit(stage, extra={}, prepare=unprepared)
        self.tree.tidy()
        self.tree.wipe()
        return expected

    @rule(edit=edits)
    def commit(self, edit: dict[str, Any]) -> None:
        """All goes well."""
        self.now = self.edit(edit)

    @rule(edit=edits, step=steps)
    def killed(self, edit: dict[str, Any], step: int) -> None:
        """The process dies in the middle, and the next one does it again."""
        killed_at(step, lambda: self.edit(edit))
        after = dict(self.now) | {path: data for path, data in edit.items() if data is not None}
        after = {path: data for path, data in after.items() if edit.get(path, b"") is not None}
        assert live(self.tree) in (self.now, after)
        self.start()
        self.now = self.edit(edit)

    @rule(place=st.sampled_from(PLACES), step=steps)
    def moved(self, place: str | None, step: int) -> None:
        """Another place, and the first start with it is cut short."""
        self.place = place
        killed_at(step, self.opened().recover)
        assert live(self.opened()) == self.now
        self.start()

    @rule(step=steps)
    def boot(self, step: int) -> None:
        """The memory is empty; the handler writes everything again, and is cut short the first time."""
        for place in ("run", "other"):
            shutil.rmtree(self.directory / place, ignore_errors=True)
        self.tree = self.opened()
        killed_at(step, self.anew)
        self.tree = self.opened()
        self.anew()

    def anew(self) -> None:
        """What a start does."""
        self.tree.recover()
        self.tree.restore()
        self.edit(self.now)

    @rule(to=st.integers(0, 2))
    def roll_back(self, to: int) -> None:
        """Secrets stay as they are."""
        numbers = [one for one in self.tree.numbers() if one <= self.tree.current]
        if numbers:
            target = numbers[-1 - to % len(numbers)]
            self.tree.carry(target)
            self.tree.roll_back(target, prepare=unprepared)
            self.tree.tidy()
            self.tree.wipe()
            self.now = live(self.tree)

    @invariant()
    def nginx_reads_what_was_committed(self) -> None:
        """Through `current`, undamaged."""
        assert self.tree.intact()
        assert live(self.tree) == self.now

    @invariant()
    def no_secret_is_elsewhere(self) -> None:
        """Only where the option says, and no other directory of secrets has any."""
        found = {path.relative_to(self.directory).parts[0] for path in on_disk(self.directory, b"secret ")}
        assert found <= ({self.place} if self.place else {"tree", "mirror"})
        if self.place and (self.directory / self.place).exists():
            assert set(self.now.values()) <= set(stored(self.directory / self.place))


TestVault = VaultMachine.TestCase
TestVault.settings = settings(max_examples=LOOKS or 15, stateful_step_count=12, deadline=None)
