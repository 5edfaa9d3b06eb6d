"""Observes one nginx: its processes, what its workers answer, and what it writes to its error log.

Owns putting these together. Must not judge what they mean (`proof`).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from agentd.handler import NginxOptions
from agentd.http import ConnectError
from agentd.nginx.canary import Questions
from agentd.nginx.processes import Processes, Running
from handlers.nginx_reload import error_log
from handlers.nginx_reload.proof import Observation, Wanted

_FEWEST: Final = 4
_MOST: Final = 128
_WAIT: Final = 0.05
_FAR_EVERY: Final = 0.5
_FIRST_LOOK: Final = 0.25
_PAUSE: Final = 0.005
_SUSPICION: Final = 0.5


class Observer:
    """Asks each worker once. Workers never change their generation, so an answer holds as long as it lives.

    Attributes:
        before: the workers that accepted connections when nginx was signalled.
    """

    def __init__(self, processes: Processes, questions: Questions, nginx: NginxOptions) -> None:
        self.before: frozenset[int] = frozenset()
        self._processes = processes
        self._questions = questions
        self._nginx = nginx
        self._answers: dict[int, str] = {}
        self._unnamed = self._stranger = self._deaf = ""
        self._boost = 1
        self._far_at = 0.0
        self._suspect_until = time.monotonic() + _SUSPICION
        self._mark = error_log.mark(nginx.error_log)
        self._writers: frozenset[int] = frozenset()

    def signalled(self, seen: Observation) -> None:
        """What follows is compared with what was seen just before the signal."""
        self.before = frozenset(seen.workers)
        self._mark = error_log.mark(self._nginx.error_log)

    def __call__(self) -> Observation:
        """Look, ask those who have not answered yet, and look again if one did."""
        running = self._look()
        if self._has_questions(running) and self._ask(running):
            running = self._look()
        suspects = running.suspects if time.monotonic() < self._suspect_until else frozenset()
        if not suspects:
            self._processes.acquit(running.suspects)
        # A worker that failed to start is gone, but what it wrote counts.
        self._writers |= running.masters.keys() | (running.workers.keys() - self.before)
        answers = dict.fromkeys(running.workers, self._unnamed) if self._unnamed else {}
        answers.update((pid, self._answers[pid]) for pid in running.workers if pid in self._answers)
        return Observation(
            masters=frozenset(running.masters),
            workers=running.workers,
            draining=running.draining,
            answers=answers,
            stopped=running.stopped,
            upgrading=running.upgrading,
            suspects=suspects,
            stranger=self._stranger,
            emergencies=tuple(error_log.emergencies(self._mark, self._writers)),
            deaf=self._deaf,
        )

    def settled(self, wanted: Wanted) -> Observation:
        """Look until it shows whether a reload is needed, but not for long."""
        end = time.monotonic() + _FIRST_LOOK
        while True:
            seen = self()
            shown = wanted.live_on_all(seen) or wanted.stale(seen) or seen.deaf or not wanted.newer
            if shown or (time.monotonic() >= end and not seen.suspects):
                return seen
            time.sleep(_PAUSE)

    def _has_questions(self, running: Running) -> bool:
        """Whether somebody has not answered; how many workers without a master there are, is not known."""
        return bool(
            running.workers.keys() - self._answers.keys()
            or self._stranger
            or running.suspects
            or not all(running.workers.values())
            or not running.workers
        )

    def _ask(self, running: Running) -> bool:
        """Ask as many questions as should reach all workers; return whether anything was learned."""
        count = min(max(2 * len(running.workers), _FEWEST) * self._boost, _MOST)
        try:
            heard = self._questions.ask(count, _WAIT)
        except ConnectError as error:
            self._deaf = str(error)
            return False
        self._deaf = ""
        named = {answer.pid: answer.generation for answer in heard if answer.pid}
        # Of a generation that an older version of agentd made: who answers is not known.
        self._unnamed = next((answer.generation for answer in heard if not answer.pid), "")
        learned = bool(named.keys() - self._answers.keys())
        self._answers.update(named)
        self._boost = 1 if learned else 2
        strangers = self._unknown(named, running)
        if strangers:  # perhaps a worker that came after this look, perhaps of a master unknown so far
            self._far_at = 0.0
            strangers = self._unknown(named, self._look())
        if strangers or heard:  # silence does not take back what a slow one said
            self._stranger = named[strangers[0]] if strangers else ""
        return learned or bool(strangers)

    def _unknown(self, answers: Collection[int], running: Running) -> list[int]:
        return [pid for pid in answers if pid not in running.workers and pid not in running.draining]

    def _look(self) -> Running:
        """At what is known already, and now and then at all."""
        now = time.monotonic()
        near = now < self._far_at
        if not near:
            self._far_at = now + _FAR_EVERY
        return self._processes.look(self._answers, near=near)
