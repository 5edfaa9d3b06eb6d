"""Makes answers: a few threads, and for each path one at a time, for all who asked before it was begun.

So a path that takes long holds up no other, and asking for one a thousand times is no more work than asking
for it as often as one thread can answer. It knows nothing of sockets.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final, Generic, TypeVar

import structlog

from agentd.errors import AgentdError
from agentd.report.request import Response

_THREADS: Final = 7  # as many as there are paths that take time, and one more for the others

Asker = TypeVar("Asker")
_log = structlog.get_logger()


class Answers(Generic[Asker]):
    """Any thread may call any method; the threads are started by the first question.

    Args:
        answer: makes the response to a path; called from several threads.
        ready: called when `made` has something.
    """

    def __init__(self, answer: Callable[[str], Response], ready: Callable[[], None]) -> None:
        self._answer = answer
        self._ready = ready
        self._changed = threading.Condition()
        self._asked: dict[str, list[Asker]] = {}  # by path, the oldest first
        self._busy: set[str] = set()
        self._made: deque[tuple[Asker, Response]] = deque()
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def ask(self, path: str, asker: Asker) -> None:
        """Have an answer made for the asker, which `made` returns."""
        with self._changed:
            self._asked.setdefault(path, []).append(asker)
            if len(self._threads) < _THREADS:
                self._threads.append(
                    threading.Thread(target=self._run, name=f"status-{len(self._threads)}", daemon=True)
                )
                self._threads[-1].start()
            self._changed.notify()

    def forget(self, asker: Asker) -> None:
        """The asker is gone; an answer that is already in the making may still come."""
        with self._changed:
            for path, askers in list(self._asked.items()):
                if asker in askers:
                    askers.remove(asker)
                    if not askers:
                        del self._asked[path]

    def made(self) -> Iterator[tuple[Asker, Response]]:
        """The answers that were made since the last call."""
        while self._made:
            yield self._made.popleft()

    def stop(self, seconds: float) -> None:
        """Make no more, and wait for each thread for so long."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            path, askers = taken
            response = self._respond(path)
            self._made.extend((asker, response) for asker in askers)
            self._ready()
            with self._changed:
                self._busy.discard(path)
                self._changed.notify()

    def _next(self) -> tuple[str, list[Asker]] | None:
        """Wait for a path that was asked for and that no thread is at, and take it; None at the end.

        With all who asked so far, in one step: in between they could be gone, and the path with them.
        """
        with self._changed:
            while not self._stopping:
                path = next((one for one in self._asked if one not in self._busy), None)
                if path is not None:
                    self._busy.add(path)
                    return path, self._asked.pop(path)
                self._changed.wait()
        return None

    def _respond(self, path: str) -> Response:
        try:
            return self._answer(path)
        except (AgentdError, OSError) as error:
            _log.warning("status.failed", path=path, error=str(error))
        except Exception:  # noqa: BLE001 (the threads must outlive any mistake in a page)
            _log.exception("status.failed", path=path)
        return Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", "text/plain")
