"""The harness that handler authors test with keeps the daemon's promises."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import pytest

from agentd.handler import (
    Change,
    Context,
    Event,
    Handler,
    HandlerOptions,
    PermanentError,
    TaskContext,
    TemporaryError,
)
from agentd.process import run
from agentd.testing import (
    HandlerHarness,
    RecordedRun,
    StagedFiles,
    event,
    instance,
    key,
    keyprefix,
    notification,
    service,
)


class Note(Handler):
    """Writes each event's payload to the path named by the event; its options say when timed work is due."""

    class Options(HandlerOptions):
        """How often timed work is due."""

        every: float = 10.0

    options: Options

    def handle(self, change: Change, context: Context) -> None:
        """Write, or run the program named `run`."""
        assert isinstance(change, Event)
        context.log.info("note.written", name=change.name)
        context.store["last"] = change.name
        if change.name == "run":
            context.run(["program", "argument"], stdin=change.payload)
        else:
            context.files.write(change.name, change.payload, mode=0o600)

    def due(self, now: float, context: Context) -> float | None:
        """Write the time."""
        context.files.write("notes/time", str(now).encode())
        return now + self.options.every


class Packed(Handler):
    """Has each event's payload packed by a program."""

    def handle(self, change: Change, context: Context) -> None:
        """Pack, in a task if the event is called `slow`; tell others if it is called `both`."""
        assert isinstance(change, Event)
        source = context.scratch / "text"
        source.write_bytes(change.payload)
        if change.name == "both":
            context.run(["notify", "all"])
        if change.name == "slow":
            made = context.task("pack", self._packed).result()
        else:
            context.run(["gzip", "-k", str(source)], read_only=True)
            made = source.with_suffix(".gz")
        context.files.write_file("text.gz", made)

    def _packed(self, context: TaskContext) -> Path:
        context.run(["gzip"], read_only=True)
        return context.scratch / "deep" / "text.gz"


def test_commit_keeps_files_modes_and_store() -> None:
    """What a handler stages is there after the call, with modes and store."""
    harness = HandlerHarness(Note)

    changed = harness.handle(event("notes/a", b"hello"))

    assert changed == ("notes/a", "notes/time")
    assert harness.files["notes/a"] == b"hello"
    assert harness.modes["notes/a"] == 0o600
    assert harness.store == {"last": "notes/a"}


def test_failed_batch_stages_nothing() -> None:
    """If one change of a batch raises, nothing of the batch is kept."""
    harness = HandlerHarness(Note)

    with pytest.raises(PermanentError):
        harness.handle(event("notes/a", b"hello"), event("../etc/passwd", b""))

    assert (harness.files, harness.store, harness.generation) == ({}, {}, 0)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a b", "a;b", "a$b", "a\n", "agentd.conf"]
)
def test_paths_outside_the_tree(path: str) -> None:
    """A path that nginx could not name, or that leaves the tree, is refused."""
    with pytest.raises(PermanentError, match=r"cannot be a file of the tree|written by agentd itself"):
        StagedFiles({}, {}).write(path, b"")


@pytest.mark.parametrize("path", ["theirs/a", "theirs", "theirs/a/b"])
def test_files_of_other_handlers(path: str) -> None:
    """Another handler's file can neither be written nor turned into a directory."""
    with pytest.raises(PermanentError, match="theirs/a"):
        StagedFiles({}, {"theirs/a": b""}).write(path, b"")


def test_reading_sees_staged_and_foreign_files(tmp_path: Path) -> None:
    """An attempt reads what it staged, from memory or from disk, and what others own."""
    source = tmp_path / "source"
    source.write_bytes(b"from disk")
    files = StagedFiles({"mine/old": (b"old", 0o644)}, {"theirs/a": b"theirs"})

    files.write_file("mine/new", source)
    files.remove("mine/old")

    assert files.paths("mine/") == ["mine/new"]
    assert [files.read(path) for path in ("mine/new", "mine/old", "theirs/a")] == [
        b"from disk",
        None,
        b"theirs",
    ]
    assert files.reference("mine/new") == "agentd/current/mine/new"


def test_advance_does_timed_work_when_it_is_due() -> None:
    """Time passes in the steps that `due` asked for."""
    harness = HandlerHarness(Note, {"every": 10}, now=100.0)
    harness.initial()

    harness.advance(25)

    assert harness.files["notes/time"] == b"120.0"
    assert (harness.now, harness.next_due) == (125.0, 130.0)


def test_due_that_returns_the_past() -> None:
    """A handler that asks for its timed work at once, for ever, is found out."""
    harness = HandlerHarness(Note, {"every": 0})
    harness.due()

    with pytest.raises(RuntimeError, match="must return a time in the future"):
        harness.advance(1)


def test_runs_are_recorded_and_scripted() -> None:
    """Programs are not run: the call is recorded, and ends as scripted."""
    harness = HandlerHarness(Note)
    harness.answer_run(returncode=3, output=b"no")

    with pytest.raises(TemporaryError, match="status 3: b'no'"):
        harness.handle(event("run", b"input"))
    harness.handle(event("run"))

    assert harness.runs[0] == RecordedRun(("program", "argument"), b"input", {}, None)
    assert len(harness.runs) == 2


def test_a_program_creates_files() -> None:
    """In the scratch directory of the call, where the handler finds them; the next call has an empty one."""
    harness = HandlerHarness(Packed)
    harness.answer_run(creates={"text.gz": b"packed"})

    harness.handle(event("text", b"plain"))

    assert harness.files == {"text.gz": b"packed"}
    assert harness.runs[0].read_only
    with pytest.raises(FileNotFoundError):
        harness.handle(event("text", b"plain"))


def test_each_change_of_a_batch_finds_an_empty_scratch_directory() -> None:
    """What the one before it left there is not seen."""
    harness = HandlerHarness(Packed)
    harness.answer_run(creates={"text.gz": b"packed"})

    with pytest.raises(FileNotFoundError):
        harness.handle(event("text", b"1"), event("text", b"2"))


def test_a_program_creates_files_for_a_task() -> None:
    """In the scratch directory of the task, which is there until the harness goes."""
    harness = HandlerHarness(Packed)
    harness.answer_run(creates={"deep/text.gz": b"packed"})

    harness.handle(event("slow", b"plain"))

    assert harness.files == {"text.gz": b"packed"}


def test_a_program_that_fails_has_created_files_all_the_same() -> None:
    """As a real one that ran out of room may have."""
    harness = HandlerHarness(Packed)
    harness.answer_run(1, creates={"text.gz": b"half"})

    with pytest.raises(TemporaryError, match="ended with status 1"):
        harness.handle(event("text", b"plain"))
    assert harness.files == {}


def test_a_dry_run_runs_only_what_reads() -> None:
    """The others are noted, and take no answer from those that run."""
    harness = HandlerHarness(Packed)
    harness.dry_run = True
    harness.answer_run(creates={"text.gz": b"packed"})

    harness.handle(event("both", b"plain"))

    assert harness.files == {"text.gz": b"packed"}
    assert [one.argv[0] for one in harness.runs] == ["gzip"]
    assert harness.would_run == [("notify", "all")]


def test_an_option_that_context_run_has_not_is_refused() -> None:
    """A slip of the pen shows in the test, not on a node."""
    with pytest.raises(TypeError, match="takes no tiemout"):
        HandlerHarness(Note)._programs.within(Path)(["true"], tiemout=3)  # type: ignore[call-arg]


def test_a_program_that_really_runs_has_a_real_scratch_directory() -> None:
    """With `run`, a test needs no script for what the program makes."""
    harness = HandlerHarness(Packed, run=partial(run, timeout=60.0))

    harness.handle(event("text", b"plain"))

    assert gzip.decompress(harness.files["text.gz"]) == b"plain"


def test_log_is_recorded() -> None:
    """What the handler logged can be asserted on."""
    harness = HandlerHarness(Note)

    harness.handle(event("notes/a"))

    assert [(line.level, line.event, line.fields) for line in harness.log] == [
        ("info", "note.written", {"name": "notes/a"})
    ]


def test_restart_with_other_options() -> None:
    """Files and store outlive the handler object, which may come back with other options."""
    harness = HandlerHarness(Note)
    harness.handle(event("notes/a", b"hello"))

    harness.restart({"every": 5})

    assert harness.files["notes/a"] == b"hello"
    assert harness.handler.options.model_dump() == {"every": 5.0}


def test_unknown_option_is_refused() -> None:
    """Options are validated as in the YAML file."""
    with pytest.raises(ValueError, match="unknown"):
        HandlerHarness(Note, {"unknown": 1})


def test_store_must_be_json() -> None:
    """A value that JSON cannot hold fails in the test, not in production."""

    class Wrong(Note):
        def handle(self, change: Change, context: Context) -> None:
            context.store["set"] = {change.id}

    with pytest.raises(TypeError, match="set"):
        HandlerHarness(Wrong).handle(event("a"))


def test_hold_is_asked() -> None:
    """A handler that holds nothing back says 0."""
    assert HandlerHarness(Note).hold() == 0.0


def test_changes_have_consuls_shape() -> None:
    """Changes made by hand answer as those that a query yields."""
    deployed = event("deploy", "v2", ltime=7)
    web = service("web", [instance("10.0.0.2", 80, Tags=["a"]), instance("10.0.0.1", 80, status="warning")])

    assert (deployed.name, deployed.payload, deployed.ltime) == ("deploy", b"v2", 7)
    assert deployed == event("deploy", b"v2", ltime=7)
    assert deployed.id != event("deploy", b"v3", ltime=7).id
    assert event("deploy").payload == b""
    assert [(i.address, i.status, i.tags) for i in web.instances] == [
        ("10.0.0.1", "warning", ()),
        ("10.0.0.2", "passing", ("a",)),
    ]
    assert (key("a", "1").value, key("a", "").value, key("a", None).value) == (b"1", b"", None)
    assert keyprefix("a/", {"a/b": b"1"}).values == {"a/b": b"1"}
    assert (notification(3, "by").generation, notification(3, "by", rollback=True).rollback) == (3, True)
