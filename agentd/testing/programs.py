"""The programs of a handler under test: recorded, answered as scripted, or really run.

A dry run is kept as agentd keeps it: only what is read-only runs, and the rest is noted.
"""

from __future__ import annotations

import inspect
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.handler import Completed, Limits, Run, TemporaryError

_OPTIONS: Final = frozenset(inspect.signature(Run.__call__).parameters)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A program that the handler ran; `timeout` is in seconds, `limits` what it is put under."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str]
    timeout: float | None
    limits: Limits | None = None
    read_only: bool = False


class ScratchDirectory:
    """A directory that is made when it is first asked for, and removed with this object."""

    def __init__(self) -> None:
        self._made: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self) -> Path:
        """Its path, the same each time."""
        if self._made is None:
            self._made = tempfile.TemporaryDirectory(prefix="agentd-harness-", ignore_cleanup_errors=True)
            weakref.finalize(self, self._made.cleanup)
        return Path(self._made.name)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a program ends, and the files that it has made by then; see `HandlerHarness.answer_run`."""

    completed: Completed
    creates: Mapping[str, bytes] = field(default_factory=dict)


@dataclass
class Programs:
    """All programs of one handler.

    Attributes:
        really: runs them; None: they end as scripted.
        dry_run: whether only the read-only ones are run.
        runs: those that ran, in order; empty if they really ran.
        would_run: the command lines that a dry run left out.
        answers: the scripts of the next ones.
    """

    really: Run | None = None
    dry_run: bool = False
    runs: list[RecordedRun] = field(default_factory=list)
    would_run: list[tuple[str, ...]] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)

    def within(self, scratch: Callable[[], Path]) -> Run:
        """`run` of a call, or of a task, that has this scratch directory.

        What really runs programs is given only the options that the handler gives, so that it may have
        others of its own, such as a time limit.
        """

        def run(argv: Sequence[str], *, read_only: bool = False, **options: Any) -> Completed:  # noqa: ANN401 (those of `Run`)
            if unknown := options.keys() - _OPTIONS:
                raise TypeError(f"context.run takes no {', '.join(sorted(unknown))}")
            if self.dry_run and not read_only:
                self.would_run.append(tuple(argv))
                return Completed(0, b"", 0.0)
            if self.really:
                return self.really(argv, **options)
            recorded = RecordedRun(
                tuple(argv),
                options.get("stdin", b""),
                dict(options.get("env") or {}),
                options.get("timeout"),
                options.get("limits"),
                read_only,
            )
            self.runs.append(recorded)
            return self._answered(argv[0], scratch, check=options.get("check", True))

        return run

    def _answered(self, program: str, scratch: Callable[[], Path], *, check: bool) -> Completed:
        answer = self.answers.popleft() if self.answers else Answer(Completed(0, b"", 0.01))
        for name, content in answer.creates.items():
            path = scratch() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        completed = answer.completed
        if check and completed.returncode != 0:
            raise TemporaryError(f"{program} {completed.ending}: {completed.output!r}")
        return completed
