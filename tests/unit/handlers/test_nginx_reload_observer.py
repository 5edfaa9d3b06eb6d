"""What nginx_reload makes of answers that come late, or from processes that it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from agentd.handler import NginxOptions
from agentd.nginx.canary import Answer, Questions
from agentd.nginx.processes import Processes, Running
from handlers.nginx_reload.observer import Observer


class NoProcesses:
    """No process looks like nginx, as with `master_process off`."""

    def look(self, *_: object, near: bool) -> Running:
        """None, near or far."""
        assert near in (False, True)
        return Running({}, {}, frozenset(), {}, frozenset(), frozenset(), ())

    def acquit(self, suspects: object) -> None:
        """There are no suspects."""
        assert not suspects


class Scripted:
    """Answers each time as it is told.

    Args:
        answers: for each time; an empty list is silence.
    """

    def __init__(self, *answers: list[Answer]) -> None:
        self._answers = list(answers)

    def ask(self, *_: object) -> list[Answer]:
        """The next ones."""
        return self._answers.pop(0)


def observer(directory: Path, *answers: list[Answer]) -> Observer:
    """One that hears these, in turn."""
    nginx = NginxOptions(error_log=directory / "error.log")
    processes = cast("Processes", NoProcesses())
    return Observer(processes, cast("Questions", Scripted(*answers)), nginx)


def test_a_stranger_that_is_slow_to_answer_is_still_there(tmp_path: Path) -> None:
    """On a busy machine: that nobody was heard does not say that nginx has ended."""
    observe = observer(tmp_path, [Answer("1", 7)], [], [])

    assert [observe().stranger for _ in range(3)] == ["1", "1", "1"]


def test_the_newest_word_of_a_stranger_counts(tmp_path: Path) -> None:
    """It was reloaded, or another one listens now."""
    observe = observer(tmp_path, [Answer("1", 7)], [], [Answer("2", 8)])

    assert [observe().stranger for _ in range(3)] == ["1", "1", "2"]
