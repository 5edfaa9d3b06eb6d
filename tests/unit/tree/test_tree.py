"""Commits, numbers, roll-backs and pruning of the tree."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TemporaryError, TreeError
from agentd.tree.tree import Tree
from tests.unit.tree.trees import commit, content, everything, generations, live, new_tree, unprepared


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty tree that keeps five generations."""
    return new_tree(tmp_path)


def numbers(tree: Tree) -> list[int]:
    """The generations that are there."""
    return [generation.number for generation in generations(tree)]


def directory(tree: Tree, number: int) -> Path:
    """Where a generation lies."""
    return tree.path / "generations" / f"{number:06d}"


# ---------------------------------------------------------------------- commit


def test_before_the_first_commit_there_is_nothing(tree: Tree) -> None:
    """And asking makes nothing."""
    assert (tree.current, generations(tree), tree.open_current().read("a"), tree.intact()) == (
        0,
        [],
        None,
        True,
    )
    assert not tree.path.exists()


def test_a_commit_is_a_new_generation(tree: Tree) -> None:
    """What was staged is what nginx sees."""
    made = commit(tree, "one", {"a/x": b"1", "b": b"2"})

    assert made is not None
    assert (made.generation, made.parent, made.changed) == (1, 0, ("a/x", "b"))
    assert made.path == directory(tree, 1)
    assert (tree.path / "current").readlink() == Path("generations/000001")
    assert live(tree) == {"a/x": (b"1", 0o644), "b": (b"2", 0o644)}
    assert tree.current == 1
    assert tree.intact()


def test_commits_of_several_handlers_add_up(tree: Tree) -> None:
    """Each changes its own files; the others' stay."""
    commit(tree, "one", {"a": b"1", "x": b""})
    commit(tree, "two", {"b": b"2"})
    made = commit(tree, "one", {"a": b"3", "x": None})

    assert made is not None
    assert (made.parent, made.changed) == (2, ("a", "x"))
    assert live(tree) == {"a": (b"3", 0o644), "b": (b"2", 0o644)}


def test_nothing_differs_nothing_happens(tree: Tree) -> None:
    """Equal content, and the removal of what is not there, make no generation."""
    commit(tree, "one", {"a": b"1"})
    before = everything(tree.path.parent)

    assert commit(tree, "one", {"a": b"1", "gone": None}) is None
    assert everything(tree.path.parent) == before


def test_what_others_committed_meanwhile_stays(tree: Tree) -> None:
    """A stage is laid over what is current at the commit, not over what it began with."""
    commit(tree, "one", {"a": b"1"})
    stage = tree.stage("one")
    stage.write("a", b"staged")
    commit(tree, "two", {"b": b"meanwhile"})

    tree.commit(stage, extra={}, prepare=unprepared)

    assert live(tree) == {"a": (b"staged", 0o644), "b": (b"meanwhile", 0o644)}


@pytest.mark.parametrize("path", ["a", "a/b"])
def test_a_path_that_others_took_meanwhile_is_refused(tree: Tree, path: str) -> None:
    """The first to commit owns it, and its directory."""
    commit(tree, "one", {"z": b""})
    stage = tree.stage("one")
    stage.write(path, b"staged")
    commit(tree, "two", {"a": b"meanwhile"})
    before = everything(tree.path.parent)

    with pytest.raises(PermanentError):
        tree.commit(stage, extra={}, prepare=unprepared)

    assert everything(tree.path.parent) == before


def test_modes_are_exact_whatever_the_umask(tree: Tree, tmp_path: Path) -> None:
    """Keys stay private and directories open."""
    stage = tree.stage("one")
    stage.write("t/key", b"k", mode=0o600)
    stage.write("t/open", b"o", mode=0o666)
    (tmp_path / "source").write_bytes(b"s")
    stage.write_file("t/program", tmp_path / "source", mode=0o755)
    umask = os.umask(0o077)
    try:
        tree.commit(stage, extra={}, prepare=unprepared)
    finally:
        os.umask(umask)

    def mode(path: str) -> int:
        return stat.S_IMODE((tree.path / path).lstat().st_mode)

    assert [mode(f"current/t/{name}") for name in ("key", "open", "program")] == [0o600, 0o666, 0o755]
    assert [mode(path) for path in (".", "generations", "generations/000001", "current/t")] == [0o755] * 4
    assert [mode(path) for path in (".lock", "current/manifest.json")] == [0o600] * 2


def test_a_new_mode_alone_is_a_change_and_leaves_the_old_generation_alone(tree: Tree) -> None:
    """The mode belongs to the inode, so the file must be a new one."""
    commit(tree, "one", {"a": b"1"})
    stage = tree.stage("one")
    stage.write("a", b"1", mode=0o600)
    made = tree.commit(stage, extra={}, prepare=unprepared)

    assert made is not None
    assert made.changed == ("a",)
    assert content(directory(tree, 1))["a"] == (b"1", 0o644)
    assert content(directory(tree, 2))["a"] == (b"1", 0o600)


def test_unchanged_files_are_shared_and_changed_ones_are_not(tree: Tree) -> None:
    """A million lines are not copied because one key changed."""
    commit(tree, "one", {"same": b"1", "other": b"2", "again": b"4"})
    commit(tree, "one", {"other": b"3", "again": b"4"})

    def inode(number: int, path: str) -> int:
        return (directory(tree, number) / path).stat().st_ino

    assert inode(1, "same") == inode(2, "same")
    assert inode(1, "again") == inode(2, "again"), "staged, but equal"
    assert inode(1, "other") != inode(2, "other")


def test_where_links_are_not_possible_files_are_copied(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, or another user's files, cost time only."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    commit(tree, "one", {"same": b"1", "other": b"2"})
    monkeypatch.setattr(os, "link", refuse)
    stage = tree.stage("one")
    stage.write_file("disk", Path("/dev/null"), mode=0o640)
    tree.commit(stage, extra={}, prepare=unprepared)

    assert live(tree) == {"disk": (b"", 0o640), "other": (b"2", 0o644), "same": (b"1", 0o644)}
    assert tree.intact()


def test_the_manifest_says_what_the_generation_is(tree: Tree) -> None:
    """For the operator, and for whoever has only the disk to look at."""
    commit(tree, "one", {"a": b"1"}, extra={"by": "one", "store": {"one": {"n": 1}}})
    raw = json.loads((tree.path / "current" / "manifest.json").read_text())

    assert raw == json.loads(tree.manifest(1).dump())
    assert (raw["generation"], raw["parent"], raw["created"]) == (1, 0, 1_700_000_000.0)
    assert (raw["changes"], raw["by"], raw["store"]) == (["a"], "one", {"one": {"n": 1}})
    assert raw["files"]["a"] == {
        "owner": "one",
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
        "size": 1,
        "mode": 0o644,
    }


@pytest.mark.parametrize("extra", [{"files": {}}, {"n": float("nan")}, {"n": b"bytes"}])
def test_extra_must_be_json_of_its_own(tree: Tree, extra: dict[str, object]) -> None:
    """What a manifest cannot hold is an error before anything is written."""
    with pytest.raises((TypeError, ValueError)):
        commit(tree, "one", {"a": b"1"}, extra=extra)

    assert everything(tree.path) == {"generations": everything(tree.path)["generations"]}


def test_generations_are_listed(tree: Tree) -> None:
    """In ascending order, agentd's own files left out."""
    commit(tree, "one", {"a": b"1"})
    commit(tree, "two", {"b": b"1"})

    first, second = generations(tree)
    assert (first.number, first.manifest.changes) == (1, ("a",))
    assert (second.number, second.manifest.changes) == (2, ("b",))


@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b'{"files": {"a": {}}}'])
def test_a_broken_manifest_is_left_out_of_the_list(tree: Tree, damage: bytes) -> None:
    """The others are still shown."""
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})
    (directory(tree, 1) / "manifest.json").write_bytes(damage)

    assert numbers(tree) == [2]
    with pytest.raises(TreeError, match="cannot be read"):
        tree.manifest(1)


# ---------------------------------------------------------------------- agentd's own files


def test_stamped_files_carry_the_number(tree: Tree) -> None:
    """They are new in every generation, and no change by themselves."""
    commit(tree, "one", {"a": b"1"})
    made = commit(tree, "one", {"a": b"2"})

    assert made is not None
    assert made.changed == ("a",)
    assert tree.open_current().read("agentd.conf") == b"# 2\n"
    assert content(directory(tree, 1))["agentd.conf"] == (b"# 1\n", 0o644)


def test_the_first_generation_may_hold_stamped_files_only(tree: Tree) -> None:
    """An nginx includes them before any handler has written a file."""
    made = commit(tree, "one", {})

    assert made is not None
    assert made.changed == ()
    assert commit(tree, "one", {}) is None


def test_another_stamp_is_a_reason_to_commit(tree: Tree) -> None:
    """A new version, or another socket for the canary, reaches nginx without waiting for a change."""
    commit(tree, "one", {"a": b"1"})
    tree.stamp = lambda number: {"agentd.conf": f"# new {number}\n".encode()}

    made = commit(tree, "one", {"a": b"1"})

    assert made is not None
    assert tree.open_current().read("agentd.conf") == b"# new 2\n"


# ---------------------------------------------------------------------- check and prepare


def test_check_and_prepare_come_before_the_flip(tree: Tree) -> None:
    """Both see the finished candidate while the live tree is still the old one."""
    commit(tree, "one", {"a": b"1"})
    seen: list[object] = []

    def check(candidate: Path) -> None:
        seen.append(("check", candidate.name, (candidate / "a").read_bytes(), tree.current))

    def prepare(number: int, changed: tuple[str, ...]) -> None:
        seen.append(("prepare", number, changed, tree.current))

    tree.check = check
    commit(tree, "one", {"a": b"2"}, prepare=prepare)

    assert seen == [("check", "000002", b"2", 1), ("prepare", 2, ("a",), 1)]


@pytest.mark.parametrize(
    "error", [PermanentError("no"), TemporaryError("wait"), KeyError("bug"), KeyboardInterrupt()]
)
def test_a_refused_candidate_leaves_the_tree_byte_for_byte(tree: Tree, error: BaseException) -> None:
    """Whatever `check` raises comes out, and nothing else happened."""
    commit(tree, "one", {"a": b"1"})
    before = everything(tree.path.parent)

    def refuse(_: Path) -> None:
        raise error

    tree.check = refuse
    with pytest.raises(type(error)):
        commit(tree, "one", {"a": b"2"})

    assert everything(tree.path.parent) == before


def test_without_a_durable_intent_there_is_no_flip(tree: Tree) -> None:
    """And the number is not given a second time: the journal may know it already."""
    commit(tree, "one", {"a": b"1"})
    before = everything(tree.path.parent)

    def refuse(_number: int, _changed: tuple[str, ...]) -> None:
        raise TreeError("the journal is full")

    with pytest.raises(TreeError, match="journal is full"):
        commit(tree, "one", {"a": b"2"}, prepare=refuse)
    assert everything(tree.path.parent) == before

    made = commit(tree, "one", {"a": b"2"})
    assert made is not None
    assert made.generation == 3


# ---------------------------------------------------------------------- numbers and pruning


def test_numbers_go_on_from_the_highest_ever_used(tree: Tree) -> None:
    """After a roll-back, and where the journal knows more than the disk."""
    for data in (b"1", b"2", b"3"):
        commit(tree, "one", {"a": data})
    tree.roll_back(1, prepare=unprepared)

    after, later = commit(tree, "one", {"a": b"4"}), commit(tree, "one", {"a": b"5"}, floor=41)

    assert after is not None
    assert later is not None
    assert (after.generation, after.parent, later.generation) == (4, 1, 42)


def test_old_generations_are_pruned(tree: Tree) -> None:
    """The newest `keep` stay."""
    for data in range(8):
        commit(tree, "one", {"a": bytes([data])})

    assert numbers(tree) == [4, 5, 6, 7, 8]


def test_what_may_still_be_needed_is_not_pruned(tmp_path: Path) -> None:
    """The parent, to flip back to, and what the caller holds."""
    tree = new_tree(tmp_path, keep=1)
    for data in range(6):
        commit(tree, "one", {"a": bytes([data])}, hold=(2,))
    assert numbers(tree) == [2, 5, 6]

    tree.roll_back(2, prepare=unprepared)
    commit(tree, "one", {"a": b"new"})

    assert numbers(tree) == [2, 7]


def test_a_generation_of_another_making_is_left_alone(tree: Tree) -> None:
    """An operator's first, empty generation has number 0 and no manifest."""
    (tree.path / "generations" / "000000").mkdir(parents=True)
    (tree.path / "generations" / "README").write_text("keep out")
    (tree.path / "current").symlink_to("generations/000000")
    assert (tree.current, tree.intact(), generations(tree)) == (0, True, [])

    for data in range(8):
        commit(tree, "one", {"a": bytes([data])})

    assert {path.name for path in (tree.path / "generations").iterdir()} >= {"000000", "README"}


# ---------------------------------------------------------------------- roll-back


def test_a_roll_back_flips_to_an_older_generation_and_forth(tree: Tree) -> None:
    """The generations stay as they are."""
    commit(tree, "one", {"a": b"1", "b": b"1"})
    commit(tree, "one", {"a": b"2"})
    told: list[object] = []

    tree.roll_back(1, prepare=lambda number, changed: told.append((number, changed, tree.current)))
    assert (tree.current, tree.open_current().read("a"), numbers(tree)) == (1, b"1", [1, 2])

    tree.roll_back(2, prepare=unprepared)
    assert (tree.current, tree.open_current().read("a")) == (2, b"2")
    assert told == [(1, ("a",), 2)]


def test_a_roll_back_to_what_is_current_is_nothing(tree: Tree) -> None:
    """It may be repeated after a crash."""
    commit(tree, "one", {"a": b"1"})

    def never(_number: int, _changed: tuple[str, ...]) -> None:
        pytest.fail("there is nothing to prepare")

    tree.roll_back(1, prepare=never)

    assert tree.current == 1


def test_a_roll_back_is_checked_unless_told_otherwise(tree: Tree) -> None:
    """A generation that was proved live needs no second check."""
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})

    def refuse(candidate: Path) -> None:
        raise PermanentError(candidate.name)

    tree.check = refuse
    with pytest.raises(PermanentError, match="000001"):
        tree.roll_back(1, prepare=unprepared)
    assert tree.current == 2

    tree.roll_back(1, prepare=unprepared, check=False)
    assert tree.current == 1


def test_a_roll_back_needs_a_generation_that_is_there(tree: Tree) -> None:
    """A missing, a damaged or an impossible one is refused, and nothing changes."""
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})
    (directory(tree, 1) / "a").unlink()

    for number in (0, 1, 7, -1):
        with pytest.raises(TreeError):
            tree.roll_back(number, prepare=unprepared)

    assert (tree.current, tree.open_current().read("a")) == (2, b"2")


def test_a_roll_back_that_cannot_be_prepared_does_not_happen(tree: Tree) -> None:
    """The journal comes first here, too."""
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})

    def refuse(_number: int, _changed: tuple[str, ...]) -> None:
        raise TreeError("the journal is full")

    with pytest.raises(TreeError):
        tree.roll_back(1, prepare=refuse)

    assert tree.current == 2
