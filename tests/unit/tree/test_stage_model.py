"""A stage against a naive model, which lays out the whole tree at every step; and what a step costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import PermanentError
from agentd.tree.generation import FileEntry, Generation, Manifest
from agentd.tree.stage import Mark, Stage
from tests.timing import TIMES, growth

BASE = {
    "a/x": ("one", b"1", 0o644),
    "a/y": ("one", b"2", 0o600),
    "b": ("two", b"3", 0o644),
    "agentd.conf": (None, b"# 1", 0o644),
}
PATHS = ("a", "a/x", "a/x.bin", "a/y", "b", "b/c", "c/d", "c/d/e", "agentd.conf")
paths = st.sampled_from(PATHS)
steps = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from([b"1", b"2", b"3"]), st.sampled_from([0o644, 0o600])),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("mark")),
    st.tuples(st.just("reset"), st.integers(0, 9)),
    st.tuples(st.just("disown"), st.just("two")),
)
Layer = dict[str, tuple[bytes, int] | None]


def generation(files: dict[str, tuple[str | None, bytes, int]]) -> Generation:
    """A generation of which only the manifest is looked at."""
    entries = {path: FileEntry.of(*file) for path, file in files.items()}
    return Generation(Path("/nonexistent"), Manifest(1, 0.0, 0, (), entries, {}))


class Naive:
    """What a stage of the handler `one` means, said without regard to cost."""

    def __init__(self) -> None:
        self.layer: Layer = {}
        self.disowned: set[str] = set()

    def files(self) -> dict[str, tuple[str | None, bytes, int]]:
        """All files as they are now; one that is written as it was keeps its owner."""
        merged = {path: file for path, file in BASE.items() if file[0] not in self.disowned}
        for path, staged in self.layer.items():
            if staged is None:
                merged.pop(path, None)
            elif path not in merged or merged[path][1:] != staged:
                merged[path] = ("one", *staged)
        return merged

    def outcome(self) -> dict[str, tuple[str | None, bytes, int] | None]:
        """What would be committed: the files that differ from the base."""
        before, after = BASE, self.files()
        differ = (
            path
            for path in before.keys() | after.keys()
            if (before.get(path) or (None,))[1:] != (after.get(path) or (None,))[1:]
        )
        return {path: after.get(path) for path in differ}

    def refuses(self, path: str, *, writes: bool) -> bool:
        """Whether `path` is not for the handler to write or remove."""
        if path == "agentd.conf":
            return True
        owner = BASE.get(path, ("one",))[0]
        if owner != "one" and owner not in self.disowned:
            return True
        others = {other for other, file in self.files().items() if file[0]} - {path}
        tops = {other for other in others if path.startswith(f"{other}/") or other.startswith(f"{path}/")}
        return writes and bool(tops | others & {f"{path}.bin", path.removesuffix(".bin")})


@given(st.lists(steps, max_size=30))
def test_a_stage_is_what_a_naive_one_would_be(plan: list[tuple[Any, ...]]) -> None:
    """It admits, holds and changes the same; two marks are equal only if the same would be committed."""
    stage, naive = Stage("one", generation(BASE), "agentd", Path("/nonexistent")), Naive()
    marks: list[tuple[Mark, Layer, Any]] = [(stage.mark(), {}, naive.outcome())]
    for action, *values in plan:
        if action == "mark":
            marks.append((stage.mark(), dict(naive.layer), naive.outcome()))
        elif action == "reset":
            mark, layer, _ = marks[values[0] % len(marks)]
            stage.reset(mark)
            naive.layer = dict(layer)
        elif action == "disown":
            stage.disown(values[0])
            naive.disowned.add(values[0])
            marks = [(stage.mark(), dict(naive.layer), naive.outcome())]
        elif naive.refuses(values[0], writes=action == "write"):
            with pytest.raises(PermanentError):
                getattr(stage, action)(*values)
        else:
            getattr(stage, action)(*values)
            naive.layer[values[0]] = (values[1], values[2]) if action == "write" else None

        assert stage.changed == tuple(sorted(naive.outcome()))
        assert stage.paths() == sorted(path for path, file in naive.files().items() if file[0] == "one")
        assert all(stage.read(path) == (staged and staged[0]) for path, staged in naive.layer.items())
        now, here = stage.mark(), naive.outcome()
        assert all((mark == now) == (outcome == here) for mark, _, outcome in marks)


class Counted(str):
    """A path that counts how often any of its kind is looked up or compared."""

    __slots__ = ()
    touched = 0

    def __hash__(self) -> int:
        """Count, and hash as the text."""
        Counted.touched += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        """Count, and compare as the text."""
        Counted.touched += 1
        return super().__eq__(other)


def lookups(count: int) -> int:
    """How often paths are looked up while `count` files are staged over as many, read, removed and marked."""
    base = {Counted(f"old/{number}"): ("one", b"1", 0o644) for number in range(count)}
    stage = Stage("one", generation(base), "agentd", Path("/nonexistent"))  # type: ignore[arg-type]  # str, and counts
    Counted.touched = 0
    for number in range(count):
        name = Counted(f"new/{number}")
        stage.write(name, b"2")
        stage.read(name)
        stage.remove(Counted(f"old/{number}"))
        stage.write(name, b"3")
    assert len(stage.changed) == 2 * count
    return Counted.touched


def test_the_work_of_staging_grows_with_the_number_of_files_and_no_faster() -> None:
    """Four times the files take four times the look-ups, whatever is staged or committed already."""
    few, many = lookups(200), lookups(800)

    assert few > 200
    assert many <= 4.2 * few


def writes(count: int) -> None:
    """So many in one attempt, as in a batch, with a mark every few."""
    stage = Stage("one", generation({}), "agentd", Path("/nonexistent"))
    for number in range(count):
        stage.write(f"many/{number % 100}/{number}", b"content")
        if number % 100 == 0:
            stage.mark()
    assert len(stage.changed) == count


def test_the_time_of_staging_grows_with_the_number_of_writes() -> None:
    """Ten thousand take eight times as long as an eighth of them."""
    assert growth(writes, 10_000 // TIMES, 10_000).linear
