"""Answers that threads make: whoever asks, and leaves at whatever moment, the threads go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus

from agentd.report.answers import Answers
from agentd.report.request import Response


class Hooked(threading.Condition):
    """Calls `left` each time that a thread has let go of it."""

    left: Callable[[], None] = staticmethod(lambda: None)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        self.left()


def test_an_asker_that_leaves_as_its_question_is_taken_up_ends_no_thread() -> None:
    """Otherwise nobody would ever get an answer to that path again."""
    ready = threading.Event()
    answers: Answers[str] = Answers(lambda _: Response(HTTPStatus.OK, b"", "text/plain"), ready.set)
    condition = answers._changed = Hooked()  # the moment between two steps cannot be had otherwise

    def leave() -> None:
        if threading.current_thread() is not threading.main_thread():
            condition.left = lambda: None
            answers.forget("first")

    condition.left = leave
    answers.ask("/healthz", "first")
    ready.wait(60)
    list(answers.made())
    ready.clear()
    answers.ask("/healthz", "second")

    answered = ready.wait(60)
    answers.stop(5)

    assert answered
    assert [asker for asker, _ in answers.made()] == ["second"]
