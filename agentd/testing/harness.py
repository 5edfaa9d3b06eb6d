"""The test harness: runs one handler as the daemon would, in memory, on a clock that tests move.

It keeps the daemon's promises to a handler: all or nothing, the store together with the files, timed work on
time. It does not hold changes back or retry, and runs programs only if it is told how.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import TypeAdapter

from agentd.apply.tasks import TIMED
from agentd.config.triggers import On
from agentd.handler import (
    Change,
    Completed,
    Context,
    Drift,
    Event,
    Handler,
    NginxOptions,
    Run,
    TemporaryError,
    UnderWay,
    Verdict,
    Watched,
)
from agentd.testing.payloads import Payloads
from agentd.testing.programs import Answer, Programs, RecordedRun, ScratchDirectory
from agentd.testing.staging import LogLine, RecordedLog, StagedFiles
from agentd.testing.tasks import FakeTasks

_MOST_STEPS: Final = 1_000


class HandlerHarness:
    """Runs one handler.

    Args:
        handler: the class.
        options: as under `options:` in the YAML file, and validated in the same way.
        now: Unix time at the start.
        nginx: what `context.nginx` returns.
        foreign: path -> contents of files that belong to other handlers.
        on: the states in its `on`, as in the YAML file with all defaults, for a handler that is joint.
        run: runs the handler's programs, as `Context.run` does; None: they are recorded, and end as scripted.

    Attributes:
        store: the committed store.
        generation: the number of commits that changed a file.
        changed: the paths that the last call changed, sorted.
        next_due: Unix time at which to call `due` next, or None.
        reloads: how often a reload was asked for: with a commit that changed a file, or by one that proves.
        dry_run: what `context.dry_run` returns; then programs run only if they are read-only.
        mend: what `context.mend` returns.
        recalls: what `context.recall` returns.
        payloads: reference (without its digest) -> what the handler gets when it fetches it.
        tasks: what the handler has done outside its calls: at once, or with `tasks.held = True` when the test
            says `tasks.finish()`.
    """

    def __init__(  # noqa: PLR0913 (what a test may replace; all but two are named)
        self,
        handler: type[Handler],
        options: Mapping[str, Any] | None = None,
        *,
        now: float = 1_700_000_000.0,
        nginx: NginxOptions | None = None,
        foreign: Mapping[str, bytes] | None = None,
        run: Run | None = None,
        on: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        items = [TypeAdapter(On).validate_python(one) for one in on]
        self._on = {str(one.query()): one for one in items}
        self._newest: dict[str, tuple[int, Change]] = {}
        self._arrived = 0
        self._programs = Programs(run)
        self._class, self._options = handler, dict(options or {})
        self._nginx, self._foreign = nginx or NginxOptions(), dict(foreign or {})
        self._files: dict[str, tuple[bytes, int]] = {}
        self._log = RecordedLog()
        self.payloads = Payloads(self._log)
        self.tasks = FakeTasks(self.payloads, self._programs.within, self._log)
        self._places: dict[str, int] = {}
        self._aside: set[int] = set()
        self.now, self.generation, self.mend = now, 0, True
        self.store: dict[str, Any] = {}
        self.reloads = 0
        self.recalls: list[Event] = []
        self._asked = False
        self._handed = 1
        self.changed: tuple[str, ...] = ()
        self.next_due: float | None = None
        self.restart()

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> contents of each committed file."""
        return {path: data for path, (data, _) in self._files.items()}

    @property
    def modes(self) -> dict[str, int]:
        """Path -> mode of each committed file."""
        return {path: mode for path, (_, mode) in self._files.items()}

    @property
    def dry_run(self) -> bool:
        """Whether what follows is a dry run."""
        return self._programs.dry_run

    @dry_run.setter
    def dry_run(self, dry_run: bool) -> None:
        self.tasks.dry_run = self._programs.dry_run = dry_run

    @property
    def runs(self) -> list[RecordedRun]:
        """The programs recorded, in order."""
        return self._programs.runs

    @property
    def would_run(self) -> list[tuple[str, ...]]:
        """The command lines that dry runs have left out, in order."""
        return self._programs.would_run

    @property
    def log(self) -> list[LogLine]:
        """What the handler logged, including failed attempts."""
        return self._log.lines

    def restart(self, options: Mapping[str, Any] | None = None) -> None:
        """Make a new handler object, with new options if given; files and store are kept, as on disk."""
        self._options = dict(options) if options is not None else self._options
        self.handler = self._class(self._class.Options.model_validate(self._options))
        self.tasks.clear()
        self._aside.clear()

    def initial(self) -> tuple[str, ...]:
        """Call `initial`, commit, then do timed work. Returns the paths changed."""
        context, files = self._attempt()
        self.handler.initial(context)
        return self._commit(context, files)

    def handle(self, *changes: Change) -> tuple[str, ...]:
        """Handle changes as one batch: one commit, or none if one of them raises.

        Returns:
            The paths changed, including those of timed work that was due at once.

        Raises:
            UnderWay: one of them waits for a task; hand it over again when that is done. Until then other
                changes overtake it.
            Exception: whatever the handler raised; nothing it staged is kept.
        """
        context, files = self._attempt()
        self.arrive(*changes)
        for change in changes:
            self._hand_over(change, context)
        self.handler.render(replace(context, **self._own_scratch()))
        for change in changes:
            self.tasks.forget(change.id)
            self._aside.discard(self._places.pop(change.id, 0))
        return self._commit(context, files)

    def arrive(self, *changes: Change) -> None:
        """Let states arrive, as `Context.states` and `hold` see them, without handing them over."""
        for change in changes:
            self._arrived += 1
            self._newest[change.query] = self._arrived, change

    def _hand_over(self, change: Change, context: Context) -> None:
        place = self._places.setdefault(change.id, self._handed)
        self._handed += 1
        overtakes = min((one for one in self._aside if one < place), default=None)
        own = self.tasks.of(change.id)
        try:
            more = {"task": own, "place": place, "overtakes": overtakes, **self._own_scratch()}
            self.handler.handle(change, replace(context, **more))
        except UnderWay:
            self._aside.add(place)
            raise
        except TemporaryError:
            self.tasks.forget(change.id)
            raise

    def due(self) -> tuple[str, ...]:
        """Call `due` at the current time and commit. Returns the paths changed."""
        self.changed = ()
        return self._timed()

    def advance(self, seconds: float) -> tuple[str, ...]:
        """Move the clock, doing timed work when it is due. Returns the paths changed.

        Args:
            seconds: to move it forward.

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
        raise RuntimeError(f"due() was called {_MOST_STEPS} times: it must return a time in the future")

    def hold(self) -> float:
        """Seconds for which the handler wants to hold back what is waiting."""
        return self.handler.hold(self.now, self._attempt()[0])

    def preflight(self) -> Sequence[Drift]:
        """What would go wrong at the first change."""
        return self.handler.preflight(self._attempt()[0])

    def verify(self) -> Verdict:
        """What the handler finds outside the tree; what it stages is dropped."""
        verdict = self.handler.verify(self._attempt()[0])
        self.reloads += self._asked and self._class.proves
        return verdict

    def fingerprint(self) -> str | None:
        """What the handler would have compared with other nodes."""
        return self.handler.fingerprint(self._attempt()[0])

    def report(self) -> dict[str, Any]:
        """What else it tells the fleet; through JSON, as it is written."""
        told: dict[str, Any] = json.loads(
            json.dumps(dict(self.handler.report(self._attempt()[0])), allow_nan=False)
        )
        return told

    def answer_run(
        self,
        returncode: int = 0,
        output: bytes = b"",
        duration: float = 0.01,
        *,
        creates: Mapping[str, bytes] | None = None,
    ) -> None:
        """Script what the next program does; one without a script ends with status 0.

        Args:
            returncode: exit status, or the negative number of the signal that ended it.
            output: standard output and error.
            duration: seconds.
            creates: the files that it makes, whatever its exit status: path, relative to the scratch
                directory of the call or of the task -> contents.
        """
        self._programs.answers.append(Answer(Completed(returncode, output, duration), creates or {}))

    def _attempt(self) -> tuple[Context, StagedFiles]:
        files = StagedFiles(self._files, self._foreign)
        self._asked = False
        context = Context(
            handler=self._class.__name__,
            now=self.now,
            files=files,
            store=copy.deepcopy(self.store),
            log=self._log,
            nginx=self._nginx,
            mend=self.mend,
            dry_run=self.dry_run,
            generation=self.generation,
            fetch=self.payloads,
            reload=self._ask,
            recall=lambda: tuple(self.recalls),
            states=self._states,
            **self._own_scratch(),
        )
        return context, files

    def _states(self) -> list[Watched]:
        return [self._watched(query, on) for query, on in self._on.items()]

    def _watched(self, query: str, on: On) -> Watched:
        if query not in self._newest:
            return Watched(on.model_dump(), query)
        number, state = self._newest[query]
        return Watched(on.model_dump(), query, number, json.dumps(state.raw), state.index, state.epoch)

    def _own_scratch(self) -> dict[str, Any]:
        """What of a context belongs to a single call."""
        scratch = ScratchDirectory()
        return {"make_scratch": scratch, "run": self._programs.within(scratch)}

    def _ask(self) -> None:
        self._asked = True

    def _commit(self, context: Context, files: StagedFiles) -> tuple[str, ...]:
        self.changed = ()
        self._keep(context, files)
        return self._timed()

    def _timed(self) -> tuple[str, ...]:
        """Call `due`, and again after every commit, as the daemon does."""
        for _ in range(_MOST_STEPS):
            before = self.store, self._files
            context, files = self._attempt()
            own = self.tasks.of(TIMED)
            self.next_due = self.handler.due(self.now, replace(context, task=own))
            self.tasks.forget(TIMED, own.asked)
            self._keep(context, files)
            if before == (self.store, self._files):
                return self.changed
        raise RuntimeError(f"due() changed something {_MOST_STEPS} times in a row")

    def _keep(self, context: Context, files: StagedFiles) -> None:
        # Through JSON, as on disk: a value that JSON cannot hold is a bug of the handler, and shows here.
        self.store = json.loads(json.dumps(dict(context.store), allow_nan=False))
        paths = {*self._files, *files.staged}
        changed = {path for path in paths if self._files.get(path) != files.staged.get(path)}
        self.changed = tuple(sorted(changed.union(self.changed)))
        self.generation += bool(changed)
        self.reloads += self._asked and (bool(changed) or self._class.proves)
        self._files = files.staged
