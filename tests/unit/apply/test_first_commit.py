"""The first files of all handlers, in one commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.apply.first_commit import FirstCommit
from agentd.apply.worker import Worker
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Context
from tests.unit.apply.stand import Pulse, Scribe, Stand


class Start(Scribe):
    """Stages one file at the start, or raises."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        super().__init__()
        self._name = name
        self._error = error

    def initial(self, context: Context) -> None:
        """Stage it."""
        context.files.write(f"{self._name}/start", b"1")
        context.store["started"] = self._name
        if self._error:
            raise self._error


def workers(stand: Stand, *handlers: Start) -> list[Worker]:
    """One worker each, not begun."""
    return [stand.raw_worker(handler, handler._name) for handler in handlers]


def ready(made: list[Worker]) -> list[str]:
    """Those that take changes."""
    return [worker.name for worker in made if worker.ready.is_set()]


def needs(*names: str) -> Callable[[Path], Exception | None]:
    """A check that passes once these files are there together."""

    def refuses(candidate: Path) -> Exception | None:
        missing = [name for name in names if not (candidate / name / "start").exists()]
        return TemporaryError(f"[emerg] {missing} missing") if missing else None

    return refuses


def test_files_that_need_one_another_are_committed_together(stand: Stand) -> None:
    """The configuration of nginx may include both, so that neither passes alone."""
    stand.refuses = needs("a", "b")
    made = workers(stand, Start("a"), Start("b"))

    stand.found(*made)

    assert ready(made) == ["a", "b"]
    assert stand.tree.current == 1
    assert stand.files == {"a/start": b"1", "b/start": b"1"}
    assert stand.journal.stores() == {"start": {}, "a": {"started": "a"}, "b": {"started": "b"}}


@pytest.mark.parametrize("error", [PermanentError("no key"), ValueError("a bug")])
def test_a_handler_that_cannot_start_holds_up_no_other(stand: Stand, error: Exception) -> None:
    """It is tried again, and the others take changes."""
    made = workers(stand, Start("a", error), Start("b"))

    stand.found(*made)

    assert ready(made) == ["b"]
    assert stand.files == {"b/start": b"1"}


def test_what_the_check_refuses_is_tried_one_by_one(stand: Stand) -> None:
    """Only the bad one does not begin."""
    stand.refuses = lambda made: PermanentError("[emerg] bad") if (made / "bad").exists() else None
    made = workers(stand, Start("bad"), Start("b"))

    stand.found(*made)

    assert ready(made) == ["b"]


def test_while_nginx_is_broken_nobody_begins(stand: Stand) -> None:
    """The next round does."""
    stand.check = [TemporaryError("[emerg] elsewhere")]
    made = workers(stand, Start("a"), Start("b"))
    first = FirstCommit(made, stand.committer, provers=(), heartbeat=Pulse(), done=lambda: None)

    first.attempt()
    before, reasons = ready(made), dict(first.reasons)
    first.attempt()

    assert (before, reasons) == ([], {"a": "[emerg] elsewhere", "b": "[emerg] elsewhere"})
    assert (ready(made), first.reasons) == (["a", "b"], {})


def test_files_of_handlers_that_are_gone_go_unless_nginx_needs_them(stand: Stand) -> None:
    """Its configuration may still include them."""
    stand.found(*workers(stand, Start("old"), Start("a")))
    stand.refuses = lambda made: PermanentError("needs old") if not (made / "old").exists() else None
    stand.found(*workers(stand, Start("a")))
    needed = dict(stand.files)
    stand.refuses = lambda _: None

    stand.found(*workers(stand, Start("a")))

    assert "old/start" in needed
    assert stand.files == {"a/start": b"1"}


def test_the_thread_ends_once_all_have_begun(stand: Stand) -> None:
    """And says so."""
    done: list[bool] = []
    made = workers(stand, Start("a"))
    first = FirstCommit(made, stand.committer, provers=(), heartbeat=Pulse(), done=lambda: done.append(True))

    first.start()
    begun = made[0].ready.wait(60)
    first.stop(10)

    assert begun
    assert done == [True]


def test_the_thread_can_be_stopped_while_it_waits(stand: Stand) -> None:
    """The daemon ends although nginx is broken."""
    stand.check = [TemporaryError("[emerg] elsewhere")] * 1000
    made = workers(stand, Start("a"))
    first = FirstCommit(made, stand.committer, provers=(), heartbeat=Pulse(), done=lambda: None)
    first.start()

    first.stop(10)

    assert not first._thread.is_alive()
    assert ready(made) == []
