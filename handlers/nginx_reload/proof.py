"""Decides whether a generation is live, by observing nginx repeatedly.

Owns the rule, the waiting, and the words for what is missing. Must not signal, and must not touch /proc or a
socket itself: the caller passes in the function that observes. A generation is live when each worker that
accepts connections has answered with it, whichever master it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Final

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.02
_LAST_PAUSE: Final = 0.005  # while only old workers are left: nginx ends them a tenth of a second later
# How long there must be no new workers after an [emerg] line; nginx itself retries a taken port for 2.5 s.
_SETTLED: Final = 0.25
_TRIES_AGAIN: Final = "bind() to "


@dataclass(frozen=True, slots=True)
class Observation:
    """nginx at one moment.

    Attributes:
        masters: the masters that count.
        workers: the workers that accept connections -> their master, or 0 if it is gone.
        draining: workers that only finish their connections.
        answers: a worker -> the generation that it serves, as it said; one that has not answered is missing.
        stopped: processes that a signal or a debugger has stopped.
        upgrading: a master that cannot reload, because of a binary upgrade -> the process that it started.
        suspects: workers without a master that may be among those that answer; none after a while.
        stranger: what a process said that is none of the workers here, or "".
        emergencies: [emerg] messages since the signal.
        deaf: why nobody can be asked at all, or "".
    """

    masters: frozenset[int] = frozenset()
    workers: Mapping[int, int] = field(default_factory=dict)
    draining: frozenset[int] = frozenset()
    answers: Mapping[int, str] = field(default_factory=dict)
    stopped: frozenset[int] = frozenset()
    upgrading: Mapping[int, int] = field(default_factory=dict)
    suspects: frozenset[int] = frozenset()
    stranger: str = ""
    emergencies: tuple[str, ...] = ()
    deaf: str = ""

    @property
    def silent(self) -> list[int]:
        """The workers that have not answered."""
        return sorted(self.workers.keys() - self.answers.keys())

    def cannot_reload(self, master: int) -> bool:
        """Whether a signal to the master changes nothing now."""
        return master not in self.masters or master in self.upgrading or master in self.stopped


@dataclass(frozen=True, slots=True)
class Wanted:
    """The generation to be served.

    Attributes:
        newer: a later one will do as well, since it includes the changes of this one.
        instead_of: workers from before the signal, which must be gone even if they say the right thing: after
            a generation was given up, a reload that is still under way may bring it back.
    """

    generation: int
    newer: bool
    instead_of: frozenset[int] = frozenset()

    def met_by(self, answer: str | None) -> bool:
        """Whether a worker's answer is what is wanted."""
        if answer is None or not (answer.isascii() and answer.isdigit()):
            return False
        return int(answer) == self.generation or (self.newer and int(answer) > self.generation)

    def live(self, seen: Observation) -> list[int]:
        """The workers that serve it."""
        return sorted(
            pid for pid in seen.workers if pid not in self.instead_of and self.met_by(seen.answers.get(pid))
        )

    def stale(self, seen: Observation) -> list[int]:
        """The workers that said that they serve another one."""
        return sorted(seen.workers.keys() - {*self.live(seen), *seen.silent})

    def live_on_all(self, seen: Observation) -> bool:
        """Whether each worker that accepts connections serves it, and there is one."""
        unknown = seen.stranger or seen.suspects
        return bool(seen.workers) and not unknown and len(self.live(seen)) == len(seen.workers)


class Result(Enum):
    """How a wait ended."""

    LIVE = auto()
    PARTLY = auto()
    """Nothing can be waited for but processes that do not answer, or that cannot reload."""
    REFUSED = auto()
    """nginx said that it keeps its old configuration."""
    ENDED = auto()
    """No process of nginx is left."""
    LATE = auto()


def wait_for_proof(  # noqa: PLR0913 (all but three are named at the call)
    observe: Callable[[], Observation],
    wanted: Wanted,
    deadline: float,
    *,
    before: Collection[int] = (),
    signalled: Collection[int] | None = None,
    patience: float = 1.5,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Result, Observation]:
    """Observe until the generation is live, cannot be soon, or `deadline` seconds have passed.

    Args:
        observe: nginx at this moment.
        wanted: what is to be served.
        deadline: seconds.
        before: the workers from before the signal.
        signalled: the masters that were signalled for it; any other brings no new workers. None: all were.
        patience: seconds for those that do not answer, once all others serve what is wanted.
        clock: monotonic seconds.
        sleep: waits.

    Returns:
        How it ended, and the last observation.
    """
    end = clock() + deadline
    pause, answered = _FIRST_PAUSE, 0
    refused_at: float | None = None
    stuck_at: float | None = None
    live_at: float | None = None
    while True:
        seen = observe()
        now = clock()
        if wanted.live_on_all(seen):
            return Result.LIVE, seen
        if not (seen.masters or seen.workers or seen.stranger):
            return Result.ENDED, seen
        refused_at = (refused_at or now) if _refused(seen, before) else None
        if refused_at is not None and now - refused_at >= _SETTLED:
            return Result.REFUSED, seen
        stuck_at = (stuck_at or now) if _stuck(seen, wanted, before, signalled) else None
        if stuck_at is not None and now - stuck_at >= patience:
            return Result.PARTLY, seen
        live_at = (live_at or now) if wanted.live(seen) else None
        if now >= end:
            return Result.LATE, seen
        if len(seen.answers) > answered:  # ask the others at once
            pause = _FIRST_PAUSE
        else:
            sleep(min(pause, end - now))
            pause = min(pause * 1.5, _LAST_PAUSE if live_at and now - live_at < _SETTLED else _LONGEST_PAUSE)
        answered = len(seen.answers)


def _refused(seen: Observation, before: Collection[int]) -> bool:
    """Whether nginx reported that it keeps its old configuration."""
    fresh = seen.workers.keys() - set(before)
    return bool(seen.emergencies) and not fresh and not seen.emergencies[-1].startswith(_TRIES_AGAIN)


def _stuck(
    seen: Observation, wanted: Wanted, before: Collection[int], signalled: Collection[int] | None
) -> bool:
    """Whether only workers are left that do not answer, or whose master does not reload."""
    if not seen.workers:
        return all(map(seen.cannot_reload, seen.masters))
    for master in {seen.workers[pid] for pid in wanted.stale(seen)}:
        if not seen.cannot_reload(master) and (signalled is None or master in signalled):
            return False
    # Silence of old workers alone says nothing: the new ones may still be on their way.
    arrived = wanted.live(seen) or seen.stranger or not set(before) & seen.workers.keys()
    return bool(arrived or wanted.stale(seen))


# ---------------------------------------------------------------------- in words


def missing(seen: Observation, wanted: Wanted, socket: Path) -> str:
    """What the proof lacks, and what the operator can do about it; `socket` is the canary's."""
    parts = [_score(seen, wanted), *_stale(seen, wanted, socket), *_silent(seen, socket)]
    if seen.stranger:
        parts.append(
            "a process that is not among nginx's here (in a container, or without a master?) answers"
            f" {seen.stranger!r} on the canary's socket: give each nginx a socket and a tree of its own"
        )
    return "; ".join(part for part in parts if part)


def _score(seen: Observation, wanted: Wanted) -> str:
    live, workers = len(wanted.live(seen)), len(seen.workers)
    if not workers:
        return "no worker accepts connections"
    if not live:
        return f"none of {_count(workers, 'worker')} serves it"
    return f"live on {live} of {_count(workers, 'worker')}"


def _stale(seen: Observation, wanted: Wanted, socket: Path) -> list[str]:
    groups: dict[tuple[int, str], list[int]] = {}
    for pid in wanted.stale(seen):
        groups.setdefault((seen.workers[pid], seen.answers[pid]), []).append(pid)
    return [
        f"{_pids(pids)} serve{'s' * (len(pids) == 1)} generation {answer}{_cure(seen, master, pids, socket)}"
        for (master, answer), pids in sorted(groups.items())
    ]


def _cure(seen: Observation, master: int, pids: list[int], socket: Path) -> str:
    listed = " ".join(map(str, pids))
    if not master:
        return f" without a master: end them with `kill -QUIT {listed}; rm -f {socket}`, then start nginx"
    if master in seen.upgrading:
        new = seen.upgrading[master]
        return (
            f" and cannot reload, since their master {master} is being upgraded: finish that with"
            f" `kill -QUIT {master}`, or take it back with `kill -QUIT {new}`"
        )
    if master in seen.stopped:
        return f", and their master {master} is stopped: continue it with `kill -CONT {master}`"
    return ""


def _silent(seen: Observation, socket: Path) -> list[str]:
    if not seen.silent:
        return []
    answering = sorted({seen.workers[pid] for pid in seen.answers} - {0})
    unheard = sorted({seen.workers[pid] for pid in seen.silent}.difference(answering, seen.stopped, {0}))
    if unheard and answering and not seen.upgrading and not seen.stopped:
        dumb, heard = (", ".join(map(str, each)) for each in (unheard, answering))
        found = f"of master {dumb} no worker answers on {socket}, but those of {heard} do"
        return [f"{found}: give each nginx a socket and a tree of its own, and restart it"]
    stopped = [pid for pid in seen.silent if pid in seen.stopped]
    others = [pid for pid in seen.silent if pid not in seen.stopped]
    listed = " ".join(map(str, stopped))
    words = []
    if stopped:
        words.append(
            f"{_pids(stopped)} {_does(stopped)} not answer (stopped by a signal): continue"
            f" with `kill -CONT {listed}`, or end with `kill -KILL {listed}`"
        )
    if others and not seen.deaf:
        words.append(
            f"{_pids(others)} {_does(others)} not answer; end a worker that hangs with `kill -KILL PID`"
        )
    return words


def _does(pids: list[int]) -> str:
    return "does" if len(pids) == 1 else "do"


def _pids(pids: list[int]) -> str:
    return f"pid {pids[0]}" if len(pids) == 1 else f"pids {', '.join(map(str, pids))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
