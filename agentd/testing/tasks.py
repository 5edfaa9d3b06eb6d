"""The tasks of a handler under test: done at once, or under way until the test says so.

It keeps the daemon's promises about who gets a task again and when it is forgotten; it has no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agentd.apply.tasks import OwnTasks
from agentd.handler import Fetch, Log, Run, Task, TaskContext
from agentd.testing.programs import ScratchDirectory

T = TypeVar("T")


@dataclass
class FakeTasks:
    """All tasks of one handler.

    Attributes:
        held: whether tasks stay under way until `finish`.
        dry_run: what their context returns.
    """

    fetch: Fetch
    run: Callable[[Callable[[], Path]], Run]
    log: Log
    held: bool = False
    dry_run: bool = False
    _known: dict[tuple[str, str], tuple[Task[Any], Callable[[TaskContext], Any]]] = field(
        default_factory=dict
    )
    _scratch: list[ScratchDirectory] = field(default_factory=list)

    @property
    def under_way(self) -> list[str]:
        """The keys of the tasks that are not done, in the order in which they were asked for."""
        return [task.key for task, _ in self._known.values() if not task.done]

    def of(self, owner: str) -> OwnTasks:
        """`Context.task` of one call."""
        return OwnTasks(self, owner)

    def ask(self, owner: str, key: str, work: Callable[[TaskContext], T]) -> Task[T]:
        """The task, done unless it is held."""
        task, _ = self._known.setdefault((owner, key), (Task[Any](key), work))
        if not self.held:
            self.finish(key)
        return task

    def finish(self, key: str | None = None) -> None:
        """Do the work of this task, or of all that are under way."""
        for task, work in list(self._known.values()):
            if not task.done and key in (None, task.key):
                task.run(lambda work=work: work(self._context()))  # type: ignore[misc]

    def forget(self, owner: str, keep: Collection[str] = ()) -> None:
        """Forget what this owner asked for."""
        self._known = {at: one for at, one in self._known.items() if at[0] != owner or at[1] in keep}

    def clear(self) -> None:
        """Forget everything, as a restart does."""
        self._known.clear()

    def _context(self) -> TaskContext:
        scratch = ScratchDirectory()
        self._scratch.append(scratch)  # what is in it may be needed after the task
        return TaskContext(self.fetch, self.run(scratch), self.log, scratch(), dry_run=self.dry_run)
