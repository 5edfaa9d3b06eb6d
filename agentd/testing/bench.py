"""The bench: runs one handler as the daemon would, in memory, on a clock that moves only when told to.

It keeps the promises that the daemon makes to a handler: all or nothing, the store and the files together,
timed work on time. It does not hold changes back, retry, or run programs.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentd.handler import Change, Completed, Context, Handler, NginxOptions, TemporaryError
from agentd.testing.payloads import Payloads
from agentd.testing.staging import LogLine, RecordedLog, StagedFiles

_MOST_STEPS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One program that the handler ran."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str]
    timeout: float | None


class HandlerBench:
    """Runs one handler.

    Args:
        handler: the class.
        options: the `options:` of the YAML file; validated as there.
        now: unix time at which the clock stands.
        nginx: the nginx that the handler is told of.
        foreign: path -> content of files that belong to other handlers.

    Attributes:
        store: the committed store.
        generation: the number of commits that changed a file.
        changed: the paths that the last call changed, sorted.
        next_due: when `due` is to be called next, or None.
        runs: the programs run, in order.
        dry_run: what the handler is told.
        payloads: reference (without its digest) -> what the handler gets when it fetches it.
    """

    def __init__(
        self,
        handler: type[Handler],
        options: Mapping[str, Any] | None = None,
        *,
        now: float = 1_700_000_000.0,
        nginx: NginxOptions | None = None,
        foreign: Mapping[str, bytes] | None = None,
    ) -> None:
        self._class, self._options = handler, dict(options or {})
        self._nginx, self._foreign = nginx or NginxOptions(), dict(foreign or {})
        self._files: dict[str, tuple[bytes, int]] = {}
        self._log, self._answers = RecordedLog(), deque[Completed]()
        self.payloads = Payloads(self._log)
        self.now, self.generation, self.dry_run = now, 0, False
        self.store: dict[str, Any] = {}
        self.runs: list[RecordedRun] = []
        self.changed: tuple[str, ...] = ()
        self.next_due: float | None = None
        self.restart()

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> content of what is committed."""
        return {path: data for path, (data, _) in self._files.items()}

    @property
    def modes(self) -> dict[str, int]:
        """Path -> mode of what is committed."""
        return {path: mode for path, (_, mode) in self._files.items()}

    @property
    def log(self) -> list[LogLine]:
        """What the handler logged, in failed attempts as well."""
        return self._log.lines

    def restart(self, options: Mapping[str, Any] | None = None) -> None:
        """Make a new handler object, with other options if given; files and store stay, as on disk."""
        self._options = dict(options) if options is not None else self._options
        self.handler = self._class(self._class.Options.model_validate(self._options))

    def initial(self) -> tuple[str, ...]:
        """Call `initial`, commit, then do the timed work. Returns the paths changed."""
        context, files = self._attempt()
        self.handler.initial(context)
        return self._commit(context, files)

    def handle(self, *changes: Change) -> tuple[str, ...]:
        """Hand over changes as one batch: one commit, or none at all if one of them raises.

        Returns:
            The paths changed, those of timed work that was due at once included.

        Raises:
            Exception: whatever the handler raised; nothing it staged is kept.
        """
        context, files = self._attempt()
        for change in changes:
            self.handler.handle(change, context)
        return self._commit(context, files)

    def due(self) -> tuple[str, ...]:
        """Call `due` at the present time and commit. Returns the paths changed."""
        self.changed = ()
        return self._timed()

    def advance(self, seconds: float) -> tuple[str, ...]:
        """Let time pass, with timed work done when it is due. Returns the paths changed by it.

        Raises:
            RuntimeError: `due` keeps asking to be called at once.
        """
        self.changed, end = (), self.now + seconds
        for _ in range(_MOST_STEPS):
            if self.next_due is None or self.next_due > end:
                self.now = end
                return self.changed
            self.now = max(self.now, self.next_due)
            self._timed()
        raise RuntimeError(f"due() wants to be called more than {_MOST_STEPS} times: it returns the past")

    def hold(self) -> float:
        """Ask how long to hold what waits, in seconds."""
        return self.handler.hold(self.now, self._attempt()[0])

    def answer_run(self, returncode: int = 0, output: bytes = b"", duration: float = 0.01) -> None:
        """Script how the next unscripted program ends; without a script each ends with status 0."""
        self._answers.append(Completed(returncode, output, duration))

    def _attempt(self) -> tuple[Context, StagedFiles]:
        files = StagedFiles(self._files, self._foreign)
        context = Context(
            handler=self._class.__name__,
            now=self.now,
            files=files,
            store=copy.deepcopy(self.store),
            log=self._log,
            run=self._run,
            nginx=self._nginx,
            dry_run=self.dry_run,
            generation=self.generation,
            fetch=self.payloads,
        )
        return context, files

    def _commit(self, context: Context, files: StagedFiles) -> tuple[str, ...]:
        self.changed = ()
        self._keep(context, files)
        return self._timed()

    def _timed(self) -> tuple[str, ...]:
        context, files = self._attempt()
        self.next_due = self.handler.due(self.now, context)
        self._keep(context, files)
        return self.changed

    def _keep(self, context: Context, files: StagedFiles) -> None:
        # Through JSON, as on disk: a value that JSON cannot hold is the handler's bug and shows here.
        self.store = json.loads(json.dumps(dict(context.store), allow_nan=False))
        paths = {*self._files, *files.staged}
        changed = {path for path in paths if self._files.get(path) != files.staged.get(path)}
        self.changed = tuple(sorted(changed.union(self.changed)))
        self.generation += bool(changed)
        self._files = files.staged

    def _run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,  # noqa: ARG002 (an answer is scripted as it is to be)
    ) -> Completed:
        self.runs.append(RecordedRun(tuple(argv), stdin, dict(env or {}), timeout))
        completed = self._answers.popleft() if self._answers else Completed(0, b"", 0.01)
        if check and completed.returncode != 0:
            raise TemporaryError(f"{argv[0]} ended with status {completed.returncode}: {completed.output!r}")
        return completed
