"""One batch: what is kept, and what is dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.apply.batch import Batch
from agentd.errors import TemporaryError
from agentd.journal.entry import Entry
from agentd.options import NginxOptions
from agentd.sources import room
from agentd.sources.fetcher import Sources
from agentd.sources.options import SourceOptions
from agentd.tree.stage import Mark, Stage
from tests.unit.apply.stand import Stand, event

_log = structlog.get_logger()


def batch(
    stand: Stand,
    store: dict[str, Any] | None = None,
    *,
    timeout: float = 10.0,
    dry_run: bool = False,
    sources: Sources | None = None,
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
        sources=sources,
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


def test_a_program_that_only_reads_did_nothing(stand: Stand) -> None:
    """A change for which no other program ran can end as unchanged."""
    made = batch(stand)
    assert made.context(0.0, _log).run(["true"], read_only=True).returncode == 0
    made.keep(entry("a"))

    assert [kept.ran for kept in made.kept] == [False]


def test_a_dry_run_runs_what_only_reads(stand: Stand) -> None:
    """Of another program it only notes that it would have run it."""
    made = batch(stand, dry_run=True)
    run = made.context(0.0, _log).run

    assert run(["/no/such/program", "x"]).returncode == 0
    assert run(["echo", "read"], read_only=True).output == b"read\n"
    with pytest.raises(TemporaryError, match="false ended with status 1"):
        run(["false"], read_only=True)
    assert made.would_run == [("/no/such/program", "x")]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_call_has_a_scratch_directory_of_its_own(stand: Stand, tmp_path: Path, *, dry_run: bool) -> None:
    """Nobody else can read it, it is empty, and it ends with the batch."""
    made = batch(stand, dry_run=dry_run, sources=Sources(SourceOptions(), tmp_path / "fetched"))
    first, second = made.context(0.0, _log), made.context(0.0, _log)
    (first.scratch / "file").write_text("x")

    assert first.scratch.stat().st_mode & 0o777 == 0o700
    assert first.scratch == replace(first, place=1).scratch
    assert list(second.scratch.iterdir()) == []
    del made, first, second
    assert list((tmp_path / "fetched").iterdir()) == []


def test_a_full_disk_gives_no_scratch_directory(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left on the disk is the journal's; the change waits until there is room."""
    monkeypatch.setattr(room, "LEAST", 1 << 62)
    monkeypatch.setattr(room, "_SHARE", 1)
    made = batch(stand, sources=Sources(SourceOptions(), tmp_path / "fetched"))

    with pytest.raises(TemporaryError, match="left there for the journal"):
        _ = made.context(0.0, _log).scratch


def test_a_program_gets_what_is_left_of_the_calls_time(stand: Stand) -> None:
    """And none if nothing is left."""
    made = batch(stand, timeout=0.05)
    context = made.context(0.0, _log)

    with pytest.raises(TemporaryError, match="timed out after"):
        context.run(["sleep", "60"])
    with pytest.raises(TemporaryError, match="no time is left to run sleep"):
        context.run(["sleep", "60"])
