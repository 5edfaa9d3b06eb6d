"""One commit over the tree and the journal, its proof, and its roll-back: all end together or not at all.

The tree's flip of `current` is the commit point; the ledger holds the plan before it and carries it out
after. Locks are taken in this order: `still`, the tree's, the journal's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from agentd.apply.journal import Journal
from agentd.apply.ledger import Ledger
from agentd.apply.observer import Blind, Observer
from agentd.apply.outcome import Ending, Report
from agentd.apply.plan import Move, Plan, Rollback
from agentd.apply.tree import Stage, Tree

Beat = Callable[[], None]
_BEAT_EVERY: Final = 1.0


def _no_beat() -> None:
    """Nobody watches."""


class Committer:
    """Commits of all workers of this process, one at a time.

    Attributes:
        told: called with the names of the handlers that a commit notified, after it is durable.
        observer: told of commits and rollbacks.
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
        self.ledger = Ledger(journal)
        self.told = told
        self.observer = observer or Blind()
        self._report = report
        self._still = threading.RLock()

    @contextmanager
    def still(self, beat: Beat = _no_beat) -> Iterator[None]:
        """Keep `current` where it is, so that a proof speaks of one generation.

        Args:
            beat: called about once a second while another one holds it.
        """
        while not self._still.acquire(timeout=_BEAT_EVERY):
            beat()
        try:
            yield
        finally:
            self._still.release()

    def recover(self) -> None:
        """Bring tree and journal together, whatever a crash, or a hand, did to either of them.

        Raises:
            TreeError, JournalError: it cannot be done now; it may be tried again.
        """
        with self.still(), self.tree.locked():
            self.tree.recover()
            endings = self._reconcile()
        self._publish(endings)

    def _reconcile(self) -> list[Ending]:
        """Finish a plan that was left behind; if `current` moved without a plan, follow it."""
        if not self.tree.intact():
            self.tree.restore()
        current = self.tree.current
        endings = self.ledger.recover(current)
        if self.ledger.current() != current:
            stores = self.tree.manifest(current).get("store", {}) if current else {}
            self.journal.owe_states()
            self.ledger.adopt(current, stores)
        return endings

    # ------------------------------------------------------------------ commit

    def commit(self, stage: Stage, plan: Plan, beat: Beat = _no_beat) -> int | None:
        """Make what is staged the current generation and end, or hold for the proof, what the plan names.

        Returns:
            The new generation, or None when no file differs (the store and the outcomes are saved).

        Raises:
            PermanentError: the check refused it; nothing changed.
            TemporaryError: it cannot be checked now, because nginx's configuration is broken elsewhere.
            Overtaken: what the batch stood on moved; nothing changed.
            TreeError, JournalError: it could not be written; nothing changed.
        """
        began = time.monotonic()
        with self.still(beat), self.tree.locked():
            left = self._reconcile()
            generation = self._flip(stage, plan)
            ended = self.ledger.settle(plan) if generation is None else self.ledger.complete(generation)
        if generation is not None:
            self.observer.committed(time.monotonic() - began)
            self.told(plan.notify)
        self._publish([*left, *ended])
        return generation

    def _flip(self, stage: Stage, plan: Plan) -> int | None:
        stores = self.journal.stores() | {name: dict(store) for name, store in plan.stores.items()}
        if plan.store is not None:
            stores[plan.handler] = dict(plan.store)
        stores = {name: store for name, store in stores.items() if name not in plan.dropped}
        made = self.tree.commit(
            stage,
            extra={"by": plan.handler, "store": stores},
            prepare=self._preparing(plan),
            floor=self.journal.last_generation(),
            hold=self._held(),
        )
        return made.generation if made else None

    def _preparing(self, move: Move) -> Callable[[int, tuple[str, ...]], None]:
        parent = self.tree.current

        def prepare(generation: int, paths: tuple[str, ...]) -> None:
            self.ledger.prepare(generation, parent, replace(move, paths=paths))

        return prepare

    def _held(self) -> tuple[int, ...]:
        """The generation that a failed proof goes back to is not pruned."""
        target = self.ledger.last_proved()
        return () if target is None else (target,)

    # ------------------------------------------------------------------ proof and rollback

    def prove(self, generation: int) -> None:
        """`generation` is live; so is all that was committed before it."""
        self._publish(self.ledger.prove(generation))

    def disprove(self, reason: str, notify: Sequence[str]) -> int | None:
        """What waits for its proof does not run: flip back to before it, and let `notify` load that again.

        Returns:
            The generation that is current again, or None when there is no earlier one to go back to.

        Raises:
            TreeError, JournalError: it could not be flipped back; nothing changed.
        """
        with self.still():
            target = self.ledger.last_proved()
            if not target or target == self.tree.current:
                return None
            self._roll_back(target, reason, notify, again=True)
        self.observer.rolled_back()
        return target

    def roll_back(self, to: int, reason: str, notify: Sequence[str], *, check: bool = False) -> None:
        """Make an earlier (or later, rolled-back) generation current again, its stores with it.

        Changes committed after it, if they still wait for their proof, end as failed.

        Raises:
            TreeError: there is no such generation, or it could not be flipped.
            PermanentError, TemporaryError: with `check`, when nginx does not accept it.
        """
        with self.still():
            self._roll_back(to, reason, notify, check=check)

    def _roll_back(
        self, to: int, reason: str, notify: Sequence[str], *, check: bool = False, again: bool = False
    ) -> None:
        with self.tree.locked():
            left = self._reconcile()
            move = Rollback(
                reason, stores=self.tree.manifest(to).get("store", {}), notify=tuple(notify), again=again
            )
            self.tree.roll_back(to, prepare=self._preparing(move), check=check)
            ended = self.ledger.complete(to)
        self.told(move.notify)
        self._publish([*left, *ended])

    # ------------------------------------------------------------------ outcomes

    def end(self, endings: Sequence[Ending]) -> None:
        """Close entries that need no commit."""
        if endings:
            self._publish(self.journal.end(endings))

    def _publish(self, endings: Sequence[Ending]) -> None:
        for ending in endings:
            self._report(ending)
