"""One batch: what is kept, and what is dropped."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from agentd.apply.batch import Batch
from agentd.errors import TemporaryError
from agentd.journal.entry import Entry
from agentd.options import NginxOptions
from agentd.tree.stage import Mark, Stage
from tests.unit.apply.stand import Stand, event

_log = structlog.get_logger()


def batch(
    stand: Stand, store: dict[str, Any] | None = None, *, timeout: float = 10.0, dry_run: bool = False
) -> Batch:
    """A batch on what is current."""
    return Batch(
        handler="h",
        stage=stand.tree.stage("h"),
        store=store or {"kept": 1},
        nginx=NginxOptions(),
        generation=stand.tree.current,
        timeout=timeout,
        dry_run=dry_run,
    )


def entry(identity: str) -> Entry:
    """An entry of a batch."""
    return Entry(
        seq=1, handler="h", id=identity, change=event(identity), attempts=0, received=0.0, not_before=0.0
    )


def test_a_batch_knows_which_entries_changed_something(stand: Stand) -> None:
    """Files and store count; writing the same again does not."""
    made = batch(stand)
    made.context(0.0, _log).files.write("a", b"1")
    made.keep(entry("a"))
    made.context(0.0, _log).files.write("a", b"1")
    made.keep(entry("b"))
    made.context(0.0, _log).store["more"] = 1
    made.keep(entry("c"))

    assert [kept.changed for kept in made.kept] == [True, False, True]
    assert made.new_store == {"kept": 1, "more": 1}


def test_a_batch_compares_what_is_staged_once_a_call(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked."""
    marks: list[int] = []
    mark = Stage.mark

    def counted(stage: Stage) -> Mark:
        marks.append(1)
        return mark(stage)

    monkeypatch.setattr(Stage, "mark", counted)
    made = batch(stand)
    made.context(0.0, _log).files.write("a", b"1")
    marks.clear()

    made.keep(entry("a"))

    assert (made.clean, made.new_store, len(marks)) == (False, None, 1)


def test_changes_that_cancel_out_leave_a_batch_clean(stand: Stand) -> None:
    """Nothing is to be committed then."""
    made = batch(stand)
    made.context(0.0, _log).files.write("a", b"1")
    made.keep(entry("a"))
    made.context(0.0, _log).files.remove("a")
    made.keep(entry("b"))

    assert made.clean
    assert made.new_store is None


def test_what_is_dropped_goes_back_to_the_last_that_was_kept(stand: Stand) -> None:
    """In files and in store, nested values included."""
    made = batch(stand, {"list": [1]})
    made.context(0.0, _log).files.write("a", b"1")
    made.store["list"].append(2)
    made.keep(entry("a"))
    made.context(0.0, _log).files.write("a", b"2")
    made.store["list"].append(3)
    made.store["more"] = 1

    made.refuse(entry("b"), "no")

    assert made.stage.read("a") == b"1"
    assert made.store == {"list": [1, 2]}
    assert [kept.refused for kept in made.kept] == [None, "no"]


def test_a_batch_knows_which_call_ran_a_program(stand: Stand) -> None:
    """Each call begins anew."""
    made = batch(stand)
    context = made.context(0.0, _log)
    assert context.run(["true"]).returncode == 0
    made.keep(entry("a"))
    made.context(0.0, _log)
    made.keep(entry("b"))

    assert [kept.ran for kept in made.kept] == [True, False]


def test_a_dry_run_runs_nothing(stand: Stand) -> None:
    """It only notes what it would have run."""
    made = batch(stand, dry_run=True)

    done = made.context(0.0, _log).run(["/no/such/program", "x"])

    assert done.returncode == 0
    assert made.would_run == [("/no/such/program", "x")]


def test_a_program_gets_what_is_left_of_the_calls_time(stand: Stand) -> None:
    """And none if nothing is left."""
    made = batch(stand, timeout=0.05)
    context = made.context(0.0, _log)

    with pytest.raises(TemporaryError, match="timed out after"):
        context.run(["sleep", "60"])
    with pytest.raises(TemporaryError, match="no time is left to run sleep"):
        context.run(["sleep", "60"])
