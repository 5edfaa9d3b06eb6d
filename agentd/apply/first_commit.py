"""The first files of all handlers, in one commit, before any of them takes a change.

nginx's configuration may need the files of several handlers, so one handler's files alone might not pass the
check. The same commit removes files of handlers that are no longer configured, unless nginx still needs them.
It is retried until it succeeds; a handler that fails to stage its first files does not hold up the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agentd.apply.batch import Batch
from agentd.apply.commit import Committer
from agentd.apply.worker import Worker
from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.errors import AgentdError, PermanentError
from agentd.heartbeat import Heartbeat
from agentd.journal.plan import Plan

NAME: Final = "start"
"""Who made the commit, in the tree's manifests."""
_BACKOFF: Final = Backoff(0.5, 10.0)
_BEAT: Final = 120.0
_log = structlog.get_logger()


class FirstCommit:
    """Commits the first files, in a separate thread.

    Attributes:
        reasons: by handler, why its files were not committed at the last attempt.

    Args:
        workers: the workers of all handlers; each begins once its files are committed.
        provers: the handlers that prove a generation live; notified if anything changed.
        heartbeat: the thread's.
        done: called when the thread ends.
        give_again: has the newest messages of the fleet's log given again to a handler that lost what it made
            of them.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        committer: Committer,
        *,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        done: Callable[[], None],
        give_again: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.reasons: dict[str, str] = {}
        self._waiting = list(workers)
        self._names = {worker.name for worker in workers}
        self._committer = committer
        self._provers = tuple(provers)
        self._heartbeat = heartbeat
        self._done = done
        self._give_again = give_again
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="first commit", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends once all handlers have begun."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop retrying, and wait up to `timeout` seconds for the thread to end."""
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
        """One round: all handlers together; if nginx refuses that, one by one."""
        staged = [(worker, batch) for worker in self._waiting if (batch := self._initial(worker))]
        try:
            self._commit(staged)
        except PermanentError as error:
            _log.warning(
                "first_commit.refused", handlers=[worker.name for worker, _ in staged], reason=str(error)
            )
            for one in staged:
                self._try_one(one)
        except AgentdError as error:
            self.reasons |= dict.fromkeys((worker.name for worker, _ in staged), str(error))
            _log.warning("first_commit.waiting", reason=str(error))

    def _initial(self, worker: Worker) -> Batch | None:
        """What it stages; None, with a log line, if it fails."""
        try:
            batch = worker.initial()
            self._make_up(worker, batch)
        except AgentdError as error:
            self.reasons[worker.name] = str(error)
            _log.error("first_commit.failed", handler=worker.name, reason=str(error))
        except Exception as error:  # noqa: BLE001 (a bug in one handler must not hold up the others)
            self.reasons[worker.name] = f"{type(error).__name__}, see the log"
            _log.exception("first_commit.crashed", handler=worker.name)
        else:
            return batch
        return None

    def _make_up(self, worker: Worker, batch: Batch) -> None:
        """If a boot took secrets that the handler did not make again, have it given what they came from."""
        lost = {p: one for p, one in self._committer.tree.lost().items() if one.owner == worker.name}
        contents = {path: batch.stage.content(path) for path in lost}
        gone = [path for path, one in contents.items() if not one or not one.entry.same_file(lost[path])]
        if lost:
            _log.warning("secrets.lost", handler=worker.name, lost=len(lost), restored=len(lost) - len(gone))
        if gone and not worker.recalled:
            self._committer.journal.owe_states(worker.name)
            self._give_again(worker.name)

    def _try_one(self, one: tuple[Worker, Batch]) -> None:
        try:
            self._commit([one])
        except AgentdError as error:
            self.reasons[one[0].name] = str(error)
            _log.error("first_commit.failed", handler=one[0].name, reason=str(error))

    def _commit(self, staged: Sequence[tuple[Worker, Batch]]) -> None:
        try:
            self._commit_stage(staged, self._stale())
        except PermanentError:
            if not self._stale():
                raise
            self._commit_stage(staged, set())  # nginx still includes files of a handler that is gone
        for worker, _ in staged:
            self._waiting.remove(worker)
            self.reasons.pop(worker.name, None)
            worker.begin()

    def _commit_stage(self, staged: Sequence[tuple[Worker, Batch]], stale: set[str]) -> None:
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
            started=unix_time(),
        )
        self._committer.commit(stage, plan, lambda: self._heartbeat.beat(_BEAT))

    def _stale(self) -> set[str]:
        owners = {entry.owner for entry in self._committer.tree.open_current().files.values()}
        return {owner for owner in owners if owner is not None} - self._names
