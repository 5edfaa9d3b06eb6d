"""Which handlers of this node take nothing new, in the file `paused.json` of the state directory.

Commands write it, whether or not the daemon runs; the daemon looks at it again and again, and it outlives
every restart. A file that cannot be read pauses all handlers: somebody wanted changes to wait, and going on
would be the one thing that cannot be undone.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from agentd.clock import unix_time
from agentd.errors import AgentdError, JournalError
from agentd.printable import printable
from agentd.times import timestamp

FILE: Final = "paused.json"
"""Its name in the state directory."""
EVERY: Final = "*"
"""Stands for every handler, also for one that is configured later."""
LONGEST_REASON: Final = 200
"""Most characters of a reason."""

_FORMAT: Final = 1
_LARGEST: Final = 256 * 1024
_LATEST: Final = 1e11  # unix seconds
_PATIENCE: Final = 5.0  # seconds to wait for another command
_STEP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Paused:
    """One pause.

    Attributes:
        since: unix time at which it began.
        until: unix time at which it ends by itself; None: when somebody resumes.
        reason: as given; may be "".
    """

    since: float
    until: float | None = None
    reason: str = ""

    def is_over(self, now: float) -> bool:
        """Whether it has ended by itself at `now`, in unix seconds."""
        return self.until is not None and self.until <= now

    def __str__(self) -> str:
        until = "" if self.until is None else f" until {timestamp(self.until)}"
        return f"paused since {timestamp(self.since)}{until}{f': {self.reason}' if self.reason else ''}"


class Pauses:
    """The file, read again whenever it has changed. Any thread may call any method.

    Args:
        state: the state directory.
        clock: unix seconds.
        timer: monotonic seconds, so that a pause never lasts longer than it was to, however clocks are set.
    """

    def __init__(
        self,
        state: Path,
        clock: Callable[[], float] = unix_time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = state / FILE
        self._clock = clock
        self._timer = timer
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._found: dict[str, Paused] = {}
        self._ends: dict[str, float] = {}  # by the timer

    def of(self, handler: str) -> Paused | None:
        """The pause of this handler; None if it takes what comes."""
        every = self.every()
        return every.get(handler) or every.get(EVERY)

    def every(self) -> Mapping[str, Paused]:
        """The pauses by handler; `EVERY` among them if all are paused."""
        with self._lock:
            self._look()
            now, at = self._clock(), self._timer()
            return {
                name: one
                for name, one in self._found.items()
                if not one.is_over(now) and at < self._ends.get(name, math.inf)
            }

    def _look(self) -> None:
        """Read the file if it is another one than before."""
        try:
            stamp = _stamp(self.path.stat(follow_symlinks=False))
        except FileNotFoundError:
            self._stamp, self._found = None, {}
            return
        except OSError as error:
            self._distrust(error.strerror or str(error))
            return
        if stamp == self._stamp:
            return
        try:
            self._found = _parse(_read(self.path))
        except OSError as error:
            self._distrust(error.strerror or str(error))
            return
        except ValueError as error:
            self._distrust(str(error))
            return
        self._stamp, at = stamp, self._timer()
        self._ends = {
            name: at + max(0.0, one.until - one.since)
            for name, one in self._found.items()
            if one.until is not None
        }

    def _distrust(self, why: str) -> None:
        """Pause everything, since nobody knows what is to be paused."""
        known = self._found.get(EVERY)
        reason = f"{self.path} cannot be read ({why}), so everything is paused: `agentd resume` removes it"
        since = known.since if known and known.reason == reason else self._clock()
        self._stamp, self._ends, self._found = None, {}, {EVERY: Paused(since, None, reason)}

    # ------------------------------------------------------------------ for commands

    def pause(self, handlers: Collection[str], reason: str, seconds: float | None) -> Paused:
        """Pause these handlers from now on, or `EVERY`; those that are paused already, anew.

        Raises:
            JournalError: the file cannot be written; nothing has changed.
            AgentdError: it cannot be read.
        """
        now = self._clock()
        paused = Paused(now, None if seconds is None else now + seconds, reason)
        with self._changing() as found:
            found.update(dict.fromkeys(handlers, paused))
        return paused

    def resume(self, handlers: Collection[str] | None, among: Collection[str] = ()) -> dict[str, Paused]:
        """Let these handlers take changes again; None for all, even if the file cannot be read.

        Args:
            handlers: their names.
            among: all handlers, of which the others stay paused if `EVERY` one is.

        Returns:
            The pauses that ended.

        Raises:
            JournalError: the file cannot be written; nothing has changed.
            AgentdError: it cannot be read.
        """
        if handlers is None:
            ended = dict(self.every())
            with self._exclusive():
                self.path.unlink(missing_ok=True)
            return ended
        with self._changing() as found:
            if (all_of_them := found.pop(EVERY, None)) is not None:
                found.update({name: all_of_them for name in among if name not in found})
            return {name: found.pop(name) for name in handlers if name in found}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Paused]]:
        """The pauses, to be changed and then written. Raises as `pause` does."""
        with self._exclusive():
            try:
                found = _parse(_read(self.path))
            except FileNotFoundError:
                found = {}
            except ValueError as error:
                raise AgentdError(
                    f"{self.path}: {error}: `agentd resume` without a handler removes it, and resumes all"
                ) from error
            now = self._clock()
            found = {name: one for name, one in found.items() if not one.is_over(now)}
            yield found
            if found:
                self._write(_rendered(found))
            else:
                self.path.unlink(missing_ok=True)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other commands out. Raises JournalError, also for what goes wrong inside."""
        directory = self.path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _lock(descriptor, directory)
                yield
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise JournalError(f"cannot change {self.path}: {error.strerror or error}") from error

    def _write(self, data: bytes) -> None:
        fresh = self.path.with_name(f".{FILE}")
        fresh.unlink(missing_ok=True)
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            fresh.rename(self.path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise


def _lock(descriptor: int, directory: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise JournalError(
                    f"another command has held {directory} for {_PATIENCE:g} s: see `fuser`"
                ) from error
            time.sleep(_STEP)
        else:
            return


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> bytes:
    """Raises OSError; ValueError if it is no file of ours."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("too large")
    return data


def _rendered(found: Mapping[str, Paused]) -> bytes:
    handlers = {
        name: {"since": one.since, "until": one.until, "reason": one.reason} for name, one in found.items()
    }
    return json.dumps({"format": _FORMAT, "handlers": handlers}, indent=2, sort_keys=True).encode() + b"\n"


def _parse(data: bytes) -> dict[str, Paused]:
    """Raises ValueError, with what is wrong."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get("handlers"), dict):
        raise ValueError("not written by agentd")  # noqa: TRY004 (one kind of error for all that is wrong)
    if value.get("format") != _FORMAT:
        raise ValueError("written by another version of agentd")
    return {name: _paused(one) for name, one in value["handlers"].items()}


def _paused(value: Any) -> Paused:  # noqa: ANN401 (any JSON)
    if not isinstance(value, dict):
        raise ValueError("not written by agentd")  # noqa: TRY004 (likewise)
    since, until, reason = value.get("since"), value.get("until"), value.get("reason")
    if not isinstance(reason, str):
        raise ValueError("not written by agentd")  # noqa: TRY004 (likewise)
    return Paused(_time(since), None if until is None else _time(until), printable(reason)[:LONGEST_REASON])


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise ValueError("not written by agentd")
    return float(value)
