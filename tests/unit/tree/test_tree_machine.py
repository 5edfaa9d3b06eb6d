"""Random histories of a tree: commits, refusals, full disks, kills, roll-backs, deletions, restarts.

The model is what each generation was when it was made. After every step `current` leads to a complete
generation that is the model's, and no generation that is there has changed.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentd.errors import PermanentError, TreeError
from agentd.tree.tree import Commit, Tree
from tests.examples import LOOKS
from tests.unit.tree.faults import failing, fault, killed_at
from tests.unit.tree.trees import Files, content, generations, new_tree, unprepared

OWNERS = ("one", "two")
paths = st.sampled_from(["a", "b", "d/a", "d/e/a"])
edits = st.dictionaries(paths, st.none() | st.tuples(st.binary(max_size=3), st.sampled_from([0o600, 0o644])))
steps = st.integers(1, 90)


class TreeMachine(RuleBasedStateMachine):
    """One tree, a daemon that dies now and then, and an operator who deletes things."""

    @initialize(mirrored=st.booleans())
    def begin(self, *, mirrored: bool) -> None:
        """An empty tree, with or without a mirror."""
        self.directory = Path(tempfile.mkdtemp(prefix="agentd-tree-"))
        self.mirrored = mirrored
        self.made: dict[int, Files] = {}
        self.now = 0
        self.floor = 0
        self.tree = self.opened()

    def teardown(self) -> None:
        """Nothing stays on disk."""
        shutil.rmtree(self.directory)

    def opened(self) -> Tree:
        """The tree as a new process sees it."""
        return new_tree(
            self.directory,
            keep=3,
            check=self.check,
            mirror=self.directory / "mirror" if self.mirrored else None,
        )

    refuses = False

    def check(self, candidate: Path) -> None:
        """What nginx is asked; the candidate must be whole by now."""
        assert (candidate / "manifest.json").is_file()
        if self.refuses:
            raise PermanentError("refused")

    def files(self, number: int) -> Files:
        """The handlers' files of a generation on disk."""
        found = content(self.tree.path / "generations" / f"{number:06d}")
        return {path: file for path, file in found.items() if path not in ("manifest.json", "agentd.conf")}

    def attempt(self, owner: str, edit: dict[str, Any]) -> tuple[Files, Any]:
        """Stage an edit of the owner's own corner. Returns what it makes of the model, and its commit."""
        expected, stage = dict(self.made.get(self.now, {})), self.tree.stage(owner)
        for path, file in edit.items():
            if file is None:
                stage.remove(f"{owner}/{path}")
                expected.pop(f"{owner}/{path}", None)
            else:
                stage.write(f"{owner}/{path}", *file)
                expected[f"{owner}/{path}"] = file
        clash = any(path.startswith(f"{other}/") for path in expected for other in expected)
        assert not clash

        def work() -> Commit | None:
            made = self.tree.commit(stage, extra={}, prepare=unprepared, floor=self.floor)
            with suppress(TreeError):
                self.tree.tidy()
            return made

        return expected, work

    def committed(self, expected: Files) -> None:
        """Take over a new current generation into the model."""
        assert self.tree.current > max(self.made, default=0), "a number is never used twice"
        self.now = self.tree.current
        self.floor = max(self.floor, self.now)
        self.made[self.now] = expected

    @rule(owner=st.sampled_from(OWNERS), edit=edits)
    def commit(self, owner: str, edit: dict[str, Any]) -> None:
        """All goes well."""
        expected, work = self.attempt(owner, edit)
        if work() is not None:
            self.committed(expected)
        else:
            assert expected == self.made[self.now]

    @rule(owner=st.sampled_from(OWNERS), edit=edits)
    def refused(self, owner: str, edit: dict[str, Any]) -> None:
        """The check says no to whatever is asked."""
        _, work = self.attempt(owner, edit)
        self.refuses = True
        try:
            assert work() is None
        except PermanentError:
            pass
        finally:
            self.refuses = False

    @rule(
        owner=st.sampled_from(OWNERS),
        edit=edits,
        step=steps,
        number=st.sampled_from([errno.ENOSPC, errno.EIO]),
    )
    def failed(self, owner: str, edit: dict[str, Any], step: int, number: int) -> None:
        """One system call fails: raised and undone, or after the flip without consequence."""
        expected, work = self.attempt(owner, edit)
        with fault(step, failing(number)):
            try:
                made = work()
            except TreeError:
                return
        if made is not None:
            self.committed(expected)
        self.restart()  # a mirror that could not be written catches up

    @rule(owner=st.sampled_from(OWNERS), edit=edits, step=steps)
    def killed(self, owner: str, edit: dict[str, Any], step: int) -> None:
        """The process dies; the next one begins by recovering."""
        expected, work = self.attempt(owner, edit)
        killed_at(step, work)
        self.restart()
        if self.tree.current != self.now:
            self.committed(expected)
        self.floor = max([self.floor, *(row.number for row in generations(self.tree))])

    @rule()
    def restart(self) -> None:
        """A new process."""
        self.tree = self.opened()
        self.tree.recover()
        leftovers = [path for path in self.tree.path.rglob(".*") if path.name not in (".lock", ".mended")]
        assert leftovers == []

    @rule(data=st.data(), step=steps)
    def roll_back(self, data: st.DataObject, step: int) -> None:
        """To any generation that is there, and killed somewhere in the middle of it."""
        there = [row.number for row in generations(self.tree) if row.number in self.made]
        if not there:
            return
        to = data.draw(st.sampled_from(there))

        def work() -> None:
            self.tree.roll_back(to, prepare=unprepared)
            self.tree.tidy()

        killed_at(step, work)
        self.restart()
        assert self.tree.current in (self.now, to)
        work()
        self.now = to

    @rule(what=st.sampled_from(["", "generations", "current"]), step=steps)
    def deleted(self, what: str, step: int) -> None:
        """Somebody deletes the tree or a part of it, and restoring is cut short the first time."""
        if not self.mirrored or not self.now:
            return
        path = self.tree.path / what
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
        assert not self.tree.intact()
        killed_at(step, self.tree.restore)
        self.restart()
        assert self.tree.restore() == self.now

    @invariant()
    def current_is_the_models(self) -> None:
        """`current` leads to a complete generation, and its files are what was committed."""
        assert self.tree.current == self.now
        assert self.tree.intact()
        if self.now:
            assert self.files(self.now) == self.made[self.now]

    @invariant()
    def generations_never_change(self) -> None:
        """Of those made, the ones still there are as they were."""
        for row in generations(self.tree):
            if row.number in self.made:
                assert self.files(row.number) == self.made[row.number]


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=LOOKS or 15, stateful_step_count=12, deadline=None)
