"""One commit over the tree and the journal, its proof, and its roll-back: all end together or not at all.

The tree's flip of `current` is the commit point; the journal holds the plan before it and carries it out after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agentd.apply.journal import Journal, Plan
from agentd.apply.observer import Blind, Observer
from agentd.apply.outcome import Ending, Report
from agentd.apply.tree import Stage, Tree


class Committer:
    """Commits of all workers of this process, one at a time.

    `told` is called with the names of the handlers that a commit notified, after it is durable.
    """

    def __init__(
        self,
        tree: Tree,
        journal: Journal,
        *,
        report: Report,
        told: Callable[[Sequence[str]], None] = lambda names: None,  # noqa: ARG005 (nobody to tell)
        observer: Observer | None = None,
    ) -> None:
        self.tree = tree
        self.journal = journal
        self._report = report
        self.told = told
        self.observer = observer or Blind()
        self._still = threading.RLock()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Keep `current` where it is, so that a proof speaks of one generation."""
        with self._still:
            yield

    def recover(self) -> None:
        """After a crash: finish the commit that had flipped, forget one that had not."""
        self.tree.recover()
        self._publish(self.journal.recover(self.tree.current))

    def commit(self, stage: Stage, plan: Plan) -> int | None:
        """Make what is staged the current generation and end, or hold for the proof, what the plan names.

        Returns:
            The new generation, or None when nothing in the tree differs (the store and the outcomes are saved).

        Raises:
            PermanentError: the check refused it; nothing changed.
            TemporaryError: it cannot be checked now, because nginx's configuration is broken elsewhere.
            TreeError, JournalError: it could not be written; nothing changed.
        """
        began = time.monotonic()
        with self._still:
            stores = self.journal.stores()
            if plan.store is not None:
                stores[plan.handler] = dict(plan.store)
            parent = self.tree.current

            def prepare(generation: int, paths: tuple[str, ...]) -> None:
                self.journal.prepare(generation, parent, replace(plan, paths=paths))

            made = self.tree.commit(
                stage,
                extra={"by": plan.handler, "store": stores},
                prepare=prepare,
                floor=self.journal.last_generation(),
                hold=self._held(),
            )
            if made is None:
                self._publish(self.journal.settle(plan))
                return None
            self._publish(self.journal.complete(made.generation))
        self.observer.committed(time.monotonic() - began)
        self.told(plan.notify)
        return made.generation

    def _held(self) -> tuple[int, ...]:
        target = self.journal.last_proved()
        return () if target is None else (target,)

    def prove(self, generation: int) -> None:
        """`generation` is live; so is all that was committed before it."""
        self._publish(self.journal.prove(generation))

    def disprove(self, reason: str, notify: Sequence[str]) -> int | None:
        """What waits for its proof does not run: flip back to before it, and let `notify` load that again.

        Returns:
            The generation that is current again, or None when there is no earlier one to go back to.
        """
        with self._still:
            target = self.journal.last_proved()
            if not target or target == self.tree.current:
                return None
            self.roll_back(target, reason, notify)
            self.observer.rolled_back()
            return target

    def roll_back(self, to: int, reason: str, notify: Sequence[str], *, check: bool = False) -> None:
        """Make an earlier (or later, rolled-back) generation current again, its stores with it.

        Raises:
            TreeError: there is no such generation.
            PermanentError, TemporaryError: with `check`, when nginx does not accept it.
        """
        with self._still:
            stores: Mapping[str, Mapping[str, Any]] = self.tree.manifest(to).get("store", {})
            plan = Plan(
                "rollback", notify=tuple(notify), proved_by=tuple(notify), stores=stores, rollback=True, reason=reason
            )
            parent = self.tree.current

            def prepare(generation: int, paths: tuple[str, ...]) -> None:
                self.journal.prepare(generation, parent, replace(plan, paths=paths))

            self.tree.roll_back(to, prepare=prepare, check=check)
            self._publish(self.journal.complete(to))
        self.told(plan.notify)

    def end(self, endings: Sequence[Ending]) -> None:
        """Close entries that need no commit."""
        if endings:
            self.journal.end(endings)
            self._publish(endings)

    def _publish(self, endings: Sequence[Ending]) -> None:
        for ending in endings:
            self._report(ending)
