"""One commit across the tree and the journal, its proof, and its rollback: both complete, or neither does.

The tree's flip of `current` is the commit point; the journal records the plan before it and carries it out
afterwards. Locks are taken in this order: `pinned`, the tree's, the journal's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from agentd.apply.observer import Observer
from agentd.errors import AgentdError, TreeError
from agentd.journal.commits import Commits
from agentd.journal.entry import Ending
from agentd.journal.followed import Followed
from agentd.journal.journal import Journal
from agentd.journal.limit import trim
from agentd.journal.numbers import Numbers
from agentd.journal.payloads import scrub
from agentd.journal.plan import Move, Plan, Rollback
from agentd.tree.stage import Stage
from agentd.tree.tree import Tree
from agentd.watch.changes import Notification
from agentd.watch.queries import EventQuery

Beat = Callable[[], None]
EVENTS: Final = str(EventQuery())
"""By what the journal knows the ring of events."""
_BEAT_EVERY: Final = 1.0
_PROOF: Final = 600.0
_LOOKS: Final = 5  # so that a burst of commits cannot put off a proof for ever
_log = structlog.get_logger(__name__)


def _no_beat() -> None:
    """A heartbeat for callers that have none."""


class Committer:
    """Commits of all workers of this process, one at a time.

    Attributes:
        observer: learns of commits, notifications, rollbacks and outcomes, once they are durable.
        joint: the configured handlers that are joint; see `scrub`.
    """

    def __init__(
        self,
        tree: Tree,
        journal: Journal,
        *,
        observer: Observer | None = None,
        joint: Collection[str] = (),
    ) -> None:
        self.tree = tree
        self.journal = journal
        self.commits = Commits(journal)
        self.numbers = Numbers(journal.database)
        self.observer = observer or Observer()
        self.joint = joint
        self._pin = threading.RLock()
        self._trimming = threading.Lock()
        # Of the last time: the secrets of the current generation and what was held; its number and that.
        self._scrubbed: tuple[frozenset[str], Collection[int]] | None = None
        self._wiped: tuple[frozenset[str], Collection[int]] | None = None
        self._looked: tuple[int, Collection[int]] | None = None

    @contextmanager
    def pinned(self, beat: Beat = _no_beat, before: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep `current` where it is, so that a proof is about a single generation.

        Args:
            beat: called about once a second while another thread pins it.
            before: called before, and again if another thread pinned it in the meantime: a commit may take
                seconds, after which what was looked at is old.
        """
        for _ in range(_LOOKS if before else 0):
            before and before()
            if self._pin.acquire(blocking=False):
                break
            with self.pinned(beat):
                pass
        else:
            while not self._pin.acquire(timeout=_BEAT_EVERY):
                beat()
        try:
            yield
        finally:
            self._pin.release()

    def recover(self) -> None:
        """Bring tree and journal into agreement, whatever a crash or a person did to either.

        Raises:
            TreeError, JournalError: it cannot be done now; try again later.
        """
        with self.pinned(), self.tree.locked():
            self.tree.recover()
            endings = self._reconcile()
            self._wipe_at_start()
            if self.journal.seen(EVENTS) is None:
                self._remember_what_the_tree_saw()
        self._publish(endings)

    def follow(self) -> None:
        """Follow a `current` that was moved by hand, unless a commit is under way.

        Raises:
            TreeError, JournalError: it cannot be followed now.
        """
        if not self._pin.acquire(blocking=False):
            return
        try:
            with self.tree.locked():
                before, current = self.commits.current(), self.tree.current
                endings = self._reconcile()
        finally:
            self._pin.release()
        if before != current:
            _log.warning("tree.moved_by_hand", path=str(self.tree.path), before=before, generation=current)
        self._publish(endings)

    def owe_reload(self, provers: Sequence[str]) -> None:
        """If files of the tree were healed, have nginx read them again: it may have read the damaged ones.

        Args:
            provers: the handlers that reload it; if there is none, there is nothing to tell.

        Raises:
            TreeError, JournalError: it is still owed.
        """
        if not self.tree.mended:
            return
        with self.tree.locked():
            raw = {"id": f"restored-{self.tree.current}", "generation": self.tree.current}
            for name in provers:  # as after a rollback: there is nothing that a failure could be undone to
                healed = Notification("notify", raw | {"by": "restored", "paths": [], "rollback": True})
                self.journal.queue(name, healed)
            self.tree.told_mended()
        self.observer.notified(provers)

    def _reconcile(self, *, leaving: bool = False) -> list[Ending]:
        """Finish a plan that was left behind; if `current` moved without a plan, follow it.

        Args:
            leaving: another generation is about to be current, so that this one may stay damaged.
        """
        if not self.tree.intact():
            with suppress(TreeError) if leaving else nullcontext():
                self.tree.restore()
        current = self.tree.current
        endings = self.commits.recover(current)
        if self.commits.current() != current:
            extra = self.tree.manifest(current).extra if current else {}
            self.journal.owe_states()
            self.commits.adopt(current, extra.get("store", {}), extra.get("numbers", {}))
        return endings

    def _remember_what_the_tree_saw(self) -> None:
        """The journal is new: take over what the newest generation says of what was received before it."""
        for number in reversed(self.tree.numbers()):
            try:
                extra = self.tree.manifest(number).extra
            except TreeError as error:
                _log.warning("tree.generation_damaged", generation=number, reason=str(error))
                continue
            Followed(self.journal).restore(extra.get("log", {}))
            if seen := extra.get("events"):
                self.journal.remember(EVENTS, dict(seen))
            return

    # ------------------------------------------------------------------ commit

    def commit(self, stage: Stage, plan: Plan, beat: Beat = _no_beat) -> int | None:
        """Make what is staged the current generation; close the plan's entries, or keep them for the proof.

        Returns:
            The new generation, or None when no file differs (the store and the outcomes are saved).

        Raises:
            PermanentError: the check refused it; nothing changed.
            TemporaryError: it cannot be checked now, because nginx's configuration is broken elsewhere.
            Overtaken: what the batch is based on has changed; nothing was committed.
            TreeError, JournalError: it could not be written; nothing changed.
        """
        began = time.monotonic()
        with self.pinned(beat), self.tree.locked():
            left = self._reconcile()
            generation = self._flip(stage, plan)
            ended = self.commits.settle(plan) if generation is None else self.commits.complete(generation)
        if generation is not None:
            self.observer.committed(time.monotonic() - began)
            self.observer.notified(plan.notify)
        self._publish([*left, *ended])
        if generation is not None:
            self.tidy()
        return generation

    def _flip(self, stage: Stage, plan: Plan) -> int | None:
        stores = self.journal.stores() | {name: dict(store) for name, store in plan.stores.items()}
        if plan.store is not None:
            stores[plan.handler] = dict(plan.store)
        stores = {name: store for name, store in stores.items() if name not in plan.dropped}
        made = self.tree.commit(
            stage,
            extra={"by": plan.handler, "store": stores, **self._received(plan), **self._in_force(plan)},
            prepare=self._preparing(plan),
            floor=self.journal.last_generation(),
        )
        return made.generation if made else None

    def _received(self, plan: Plan) -> dict[str, Any]:
        """What this generation has seen, for a node that loses its journal.

        Of the events that are heard (see `EventRing`), and of the fleet's log (see `Followed`).
        """
        taken = [*plan.seqs, *plan.unchanged, *(seq for seq, _ in plan.refused)]
        seen = self.journal.seen(EVENTS)
        log = Followed(self.journal).kept(taken)
        events = seen | {"owed": self.journal.owed_events(taken)} if seen else {}
        return {"events": events} | ({"log": log} if log else {})

    def _in_force(self, plan: Plan) -> dict[str, Any]:
        """The numbers of the fleet's messages that this generation holds, if there are any."""
        found = self.numbers.with_batch(plan.handler, (*plan.seqs, *plan.unchanged))
        kept = {name: numbers for name, numbers in found.items() if name not in plan.dropped}
        return {"numbers": kept} if kept else {}

    def _preparing(self, move: Move) -> Callable[[int, tuple[str, ...]], None]:
        parent = self.tree.current

        def prepare(generation: int, paths: tuple[str, ...]) -> None:
            self.commits.prepare(generation, parent, replace(move, paths=paths))

        return prepare

    def trim(self) -> None:
        """Keep the journal within its limit, unless another thread is just doing so.

        Raises:
            JournalError: it cannot be read or written.
        """
        if not self._trimming.acquire(blocking=False):
            return
        try:
            trimmed = trim(self.journal)
        finally:
            self._trimming.release()
        self._publish(trimmed.endings)
        self.observer.trimmed(trimmed)

    def tidy(self) -> None:
        """Do what a commit leaves for later, once the handlers that it notified are at work.

        If this fails, the next commit or the next start makes up for it.
        """
        try:
            with self.tree.locked():
                self._scrub(self._held())  # before anything is pruned: what is there tells what to look for
                # The generation that a failed proof would return to is not pruned.
                target = self.commits.last_proved()
                self.tree.tidy(() if target is None else (target,))
                self.wipe()
        except AgentdError as error:
            _log.warning("tree.not_tidied", error=str(error))

    def wipe(self) -> None:
        """Wipe the secrets that the current generation has no more, wherever they are; cheap without any.

        The journal comes first: as long as a file is there, a crash does not hide what is to be wiped.

        Raises:
            TreeError, JournalError: not all of it could be done.
        """
        hold = self._held()
        if self._looked != (self.tree.current, hold) and self.tree.current:
            with self.tree.locked():
                self._scrub(hold)
                if self._wiped != (secrets := self.tree.secrets(), hold):
                    self.tree.wipe(hold)
                self._wiped, self._looked = (secrets, hold), (self.tree.current, hold)

    def _wipe_at_start(self) -> None:
        try:
            self.wipe()
        except AgentdError as error:  # a disk that cannot be written is no reason not to serve
            _log.error("secrets.not_wiped", error=str(error))

    def _scrub(self, hold: Collection[int]) -> None:
        """Wipe payloads, unless the current generation has the secrets that it had the last time."""
        known = self.tree.secrets(), hold
        if known in (self._scrubbed, self._wiped):
            return
        if secrets := self.tree.retired(hold):
            payloads = scrub(self.journal, secrets, self.joint)
            _log.info("secrets.wiped", secrets=len(secrets), payloads=payloads)
        self._scrubbed = known

    def _held(self) -> tuple[int, ...]:
        """The generation that a failed proof would return to keeps what it has, but not for long."""
        target, since = self.commits.last_proved(), self.commits.owed_since()
        if target is None or since is None or abs(self.journal.clock() - since) > _PROOF:
            return ()
        return (target,)

    # ------------------------------------------------------------------ proof and rollback

    def prove(self, generation: int, skipped: str = "") -> None:
        """End what waits for the proof of `generation`, or of an earlier one, unless it is to be verified.

        Args:
            generation: the one that is live.
            skipped: why there was nothing to prove or to verify; the outcome says so.
        """
        self._publish(self.commits.prove(generation, skipped))
        self.observer.notified(self.commits.verifying())

    def verified(self, handler: str, generation: int, reason: str = "") -> None:
        """End what `handler` committed up to `generation` as applied: it was seen to take effect."""
        self._publish(self.commits.verified(handler, generation, reason))

    def release(self, verifying: Iterable[str]) -> None:
        """End what waits to be verified by handlers that are not among `verifying` any more."""
        self._publish(self.commits.release(verifying))

    def disprove(self, reason: str, notify: Sequence[str]) -> int | None:
        """The proof failed: flip back to the generation before, and notify `notify` to load that again.

        Returns:
            The generation that is current again, or None if there is no earlier one to go back to.

        Raises:
            TreeError, JournalError: it could not be flipped back; nothing changed.
        """
        with self.pinned():
            target = self.commits.last_proved()
            if not target or target == self.tree.current:
                return None
            self._roll_back(target, reason, notify, again=True)
        self.observer.rolled_back()
        return target

    def roll_back(self, to: int, reason: str, notify: Sequence[str], *, check: bool = False) -> None:
        """Make an earlier (or later, rolled-back) generation current again, its stores with it.

        Handlers that have secrets keep their files and stores: an old key must not come back.

        Changes committed after it, if they still wait for their proof, end as failed.

        Raises:
            TreeError: there is no such generation, or it could not be flipped.
            PermanentError, TemporaryError: with `check`, when nginx does not accept it.
        """
        with self.pinned():
            self._roll_back(to, reason, notify, check=check)

    def _roll_back(
        self, to: int, reason: str, notify: Sequence[str], *, check: bool = False, again: bool = False
    ) -> None:
        with self.tree.locked():
            left = self._reconcile(leaving=True)
            carried = set() if again else self.tree.carry(to)
            kept = {name: store for name, store in self.journal.stores().items() if name in carried}
            extra = self.tree.manifest(to).extra
            force = {name: dict(self.numbers.committed(name)) for name in carried}
            move = Rollback(
                reason,
                stores={**extra.get("store", {}), **kept},
                numbers={**extra.get("numbers", {}), **force},
                notify=tuple(notify),
                again=again,
            )
            self.tree.roll_back(to, prepare=self._preparing(move), check=check)
            ended = self.commits.complete(to)
        self.observer.notified(move.notify)
        self._publish([*left, *ended])
        self.tidy()

    # ------------------------------------------------------------------ outcomes

    def end(self, endings: Sequence[Ending]) -> None:
        """Close entries that need no commit."""
        if endings:
            self._publish(self.journal.end(endings))

    def _publish(self, endings: Sequence[Ending]) -> None:
        self.observer.stored({ending.entry.handler for ending in endings})
        for ending in endings:
            self.observer.ended(ending)
