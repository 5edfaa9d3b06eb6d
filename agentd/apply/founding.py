"""The first files of all handlers, in one commit, before any of them takes a change.

nginx's configuration may need what several handlers bring, so that no one's files pass the check alone. Files
of handlers that are not configured any more go with the same commit, unless nginx still needs them. It is
tried until it succeeds; a handler that cannot say what it needs does not hold up the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from agentd.apply.attempt import Batch
from agentd.apply.commit import Committer
from agentd.apply.plan import Plan
from agentd.backoff import Backoff
from agentd.errors import AgentdError, PermanentError

NAME: Final = "start"
"""Who made the commit, in the tree's manifests."""
_BACKOFF: Final = Backoff(0.5, 10.0)
_BEAT: Final = 120.0
_log = structlog.get_logger()


class Founder(Protocol):
    """A worker, as far as its first files go."""

    name: str

    def initial(self) -> Batch:
        """What its handler stages before any change came."""

    def begin(self) -> None:
        """Take changes from now on."""


class Heartbeat(Protocol):
    """Says that a thread is alive."""

    def beat(self, good_for: float) -> None:
        """Alive now, and to be believed for `good_for` seconds."""


class Founding:
    """Commits the first files, in a thread of its own.

    Args:
        workers: whose files; each is told to begin once they are committed.
        provers: the handlers that prove a generation live; told if anything changed.
        heartbeat: of the thread.
        done: called when the thread ends.
    """

    def __init__(
        self,
        workers: Sequence[Founder],
        committer: Committer,
        *,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        done: Callable[[], None],
    ) -> None:
        self._waiting = list(workers)
        self._names = {worker.name for worker in workers}
        self._committer = committer
        self._provers = tuple(provers)
        self._heartbeat = heartbeat
        self._done = done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="founding", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends once all handlers have begun."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Try no more; wait for the thread to end, `timeout` seconds at most."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        attempt = 0
        while self._waiting and not self._stop.is_set():
            self._heartbeat.beat(_BEAT)
            self.attempt()
            if self._waiting:
                attempt += 1
                self._stop.wait(_BACKOFF.delay(attempt))
        self._done()

    def attempt(self) -> None:
        """One round: everybody together; if nginx refuses that, one by one."""
        staged = [(worker, batch) for worker in self._waiting if (batch := _initial(worker))]
        try:
            self._commit(staged)
        except PermanentError as error:
            _log.warning(
                "founding.refused", handlers=[worker.name for worker, _ in staged], reason=str(error)
            )
            for one in staged:
                self._try_one(one)
        except AgentdError as error:
            _log.warning("founding.waiting", reason=str(error))

    def _try_one(self, one: tuple[Founder, Batch]) -> None:
        try:
            self._commit([one])
        except AgentdError as error:
            _log.error("founding.failed", handler=one[0].name, reason=str(error))

    def _commit(self, staged: Sequence[tuple[Founder, Batch]]) -> None:
        try:
            self._commit_stage(staged, self._stale())
        except PermanentError:
            if not self._stale():
                raise
            self._commit_stage(staged, set())  # nginx still includes what nobody keeps any more
        for worker, _ in staged:
            self._waiting.remove(worker)
            worker.begin()

    def _commit_stage(self, staged: Sequence[tuple[Founder, Batch]], stale: set[str]) -> None:
        stage = self._committer.tree.stage(NAME)
        for owner in stale:
            stage.disown(owner)
        for _, batch in staged:
            stage.join(batch.stage)
        stores = {worker.name: batch.new_store for worker, batch in staged if batch.new_store is not None}
        plan = Plan(
            NAME,
            stores=stores,
            dropped=tuple(stale),
            notify=self._provers,
            proved_by=self._provers,
            started=time.time(),
        )
        self._committer.commit(stage, plan, lambda: self._heartbeat.beat(_BEAT))

    def _stale(self) -> set[str]:
        owners = {entry.owner for entry in self._committer.tree.open_current().files.values()}
        return {owner for owner in owners if owner is not None} - self._names


def _initial(worker: Founder) -> Batch | None:
    """What it stages, or None, told to the log, if it cannot say."""
    try:
        return worker.initial()
    except AgentdError as error:
        _log.error("founding.failed", handler=worker.name, reason=str(error))
    except Exception:  # noqa: BLE001 (a bug in one handler must not hold up the others)
        _log.exception("founding.crashed", handler=worker.name)
    return None
