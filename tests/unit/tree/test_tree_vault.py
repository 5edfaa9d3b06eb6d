"""Secrets in a directory of their own, which a boot empties, and never in the tree or its mirror."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from agentd.errors import TreeError
from agentd.tree.tree import Tree
from agentd.tree.vault import Vault
from tests.unit.tree.faults import killed_at
from tests.unit.tree.trees import commit, new_tree, unprepared

OLD, NEW = b"old old old old!", b"new new new new!"
MOST = 500


def vaulted(directory: Path, name: str | None = "run") -> Tree:
    """The tree in `directory` as a new process sees it, with its secrets in that place; None: the disk."""
    return new_tree(directory, keep=3, vault=Vault(directory / name if name else None))


def started(directory: Path, name: str | None = "run") -> Tree:
    """The same, as a daemon that has begun sees it."""
    tree = vaulted(directory, name)
    tree.recover()
    return tree


def put(tree: Tree, files: dict[str, bytes | None], *, plain: str = "") -> None:
    """Commit these secrets as the daemon does, and a file that is none."""
    stage = tree.stage("one")
    for path, data in files.items():
        if data is None:
            stage.remove(path)
        else:
            stage.write(path, data, mode=0o600, secret=True)
    if plain:
        stage.write("plain", plain.encode())
    tree.commit(stage, extra={}, prepare=unprepared)
    tree.tidy()
    tree.wipe()


def live(tree: Tree) -> dict[str, bytes]:
    """What nginx reads, agentd's own files left out."""
    root = (tree.path / "current").resolve()
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "agentd.conf")
    }


def on_disk(directory: Path, secret: bytes) -> list[Path]:
    """The files below a directory, no links, that contain these bytes."""
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and secret in path.read_bytes()
    ]


def stored(directory: Path) -> list[bytes]:
    """All contents in a directory of secrets."""
    return sorted(path.read_bytes() for path in directory.iterdir())


def boot(directory: Path) -> None:
    """Empty the directory, as a boot does."""
    shutil.rmtree(directory / "run")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree with one secret and one plain file."""
    tree = vaulted(tmp_path)
    put(tree, {"k/a": OLD}, plain="x")
    return tree


def test_a_secret_is_in_its_directory_alone(tree: Tree, tmp_path: Path) -> None:
    """Others cannot read it, and neither the tree nor the mirror has more than a link."""
    (found,) = (tmp_path / "run").iterdir()

    assert live(tree) == {"k/a": OLD, "plain": b"x"}
    assert on_disk(tmp_path, OLD) == [found]
    assert ((tmp_path / "run").stat().st_mode & 0o777, found.stat().st_mode & 0o777) == (0o700, 0o600)
    assert tree.intact()
    assert tree.copied


def test_a_staged_secret_that_a_program_reads_is_there_too(tree: Tree, tmp_path: Path) -> None:
    """Its path leads into the directory of secrets, not into that of the tree."""
    stage = tree.stage("one")
    stage.write("k/b", NEW, mode=0o600, secret=True)

    path = stage.path("k/b")

    assert path is not None
    assert path.read_bytes() == NEW
    assert on_disk(tmp_path / "tree", NEW) == []
    stage.close()
    assert on_disk(tmp_path, NEW) == []


def test_a_retired_secret_leaves_it(tree: Tree, tmp_path: Path) -> None:
    """Older generations get what there is now; one that a failed proof would return to keeps its own."""
    stage = tree.stage("one")
    stage.remove("k/a")
    stage.write("k/b", NEW, mode=0o600, secret=True)
    tree.commit(stage, extra={}, prepare=unprepared)
    tree.tidy()

    tree.wipe(hold=(1,))
    held = stored(tmp_path / "run")
    tree.wipe()

    assert held == [NEW, OLD]
    assert stored(tmp_path / "run") == [NEW]
    tree.roll_back(1, prepare=unprepared)
    assert live(tree) == {"k/b": NEW, "plain": b"x"}


@pytest.mark.parametrize("what", ["emptied", "flipped", "copied", "linked", "removed"])
def test_what_somebody_does_to_it_is_mended_by_the_process_that_wrote_it(
    tree: Tree, tmp_path: Path, what: str
) -> None:
    """Also if the link in the generation is replaced by another one."""
    link = (tree.path / "current").resolve() / "k" / "a"
    (found,) = (tmp_path / "run").iterdir()
    if what == "emptied":
        boot(tmp_path)
    elif what == "flipped":
        found.chmod(0o600)
        found.write_bytes(NEW)
    else:
        link.unlink()
        if what == "linked":
            (tmp_path / "elsewhere").write_bytes(OLD)
            link.symlink_to(tmp_path / "elsewhere")
        elif what == "copied":
            link.write_bytes(NEW)

    assert not tree.intact()
    assert "k/a" in tree.damage()
    assert tree.restore() == 1

    assert tree.intact()
    assert live(tree) == {"k/a": OLD, "plain": b"x"}
    assert on_disk(tree.path, OLD) == []


def test_after_a_boot_handlers_find_no_secrets_and_make_them_anew(tree: Tree, tmp_path: Path) -> None:
    """Even if they write exactly what was there: then everything is as before."""
    boot(tmp_path)
    tree = started(tmp_path)
    tree.restore()

    stage = tree.stage("one")
    read, paths = stage.read("k/a"), stage.paths()
    put(tree, {"k/a": OLD})

    assert (read, paths) == (None, ["plain"])
    assert live(tree) == {"k/a": OLD, "plain": b"x"}
    assert tree.intact()
    assert tree.manifest(tree.current).changes == ("k/a",)


def test_after_a_boot_a_secret_that_nobody_makes_anew_is_gone(tree: Tree, tmp_path: Path) -> None:
    """The next commit is without it, so that nginx is not told to read what is not there."""
    boot(tmp_path)
    tree = started(tmp_path)

    put(tree, {"k/b": NEW})
    tree.roll_back(1, prepare=unprepared)

    assert live(tree) == {"k/b": NEW, "plain": b"x"}, "the generation before has what is there now"


def test_after_a_boot_a_commit_that_changes_nothing_drops_what_is_lost(tree: Tree, tmp_path: Path) -> None:
    """The links that lead nowhere go."""
    boot(tmp_path)
    tree = started(tmp_path)

    put(tree, {})

    assert live(tree) == {"plain": b"x"}
    assert tree.intact()


def test_after_a_boot_a_deleted_tree_comes_back_without_its_secrets(tree: Tree, tmp_path: Path) -> None:
    """The mirror has all but those."""
    boot(tmp_path)
    shutil.rmtree(tree.path)
    tree = started(tmp_path)

    assert tree.restore() == 1
    put(tree, {"k/a": OLD})

    assert live(tree) == {"k/a": OLD, "plain": b"x"}


def test_a_restart_without_a_boot_loses_nothing(tree: Tree, tmp_path: Path) -> None:
    """And the new process can restore what the old one wrote."""
    tree = started(tmp_path)
    assert tree.intact()

    boot(tmp_path)
    tree.restore()

    assert live(tree) == {"k/a": OLD, "plain": b"x"}


def test_files_of_others_in_the_directory_stay(tree: Tree, tmp_path: Path) -> None:
    """It may be shared with sockets and the like; what a crash left of ours goes."""
    for name in ("canary.sock", ".hidden-file", f".new-{'0' * 64}-0600", f"{'0' * 64}-0600"):
        (tmp_path / "run" / name).write_text("mine")

    tree.recover()

    assert sorted(one.name for one in (tmp_path / "run").iterdir() if one.read_text() == "mine") == [
        ".hidden-file",
        "canary.sock",
    ]


def test_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """They could put another key there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o770)

    with pytest.raises(TreeError, match="chmod 0700"):
        vaulted(tmp_path).recover()


@pytest.mark.parametrize("before, after", [(None, "run"), ("run", None), ("run", "other")])
def test_another_place_takes_effect_at_the_next_start(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    """Nothing is left where they were, in older generations and the mirror neither; nginx reads the same."""
    put(vaulted(tmp_path, before), {"k/a": OLD, "k/b": OLD + b"2"}, plain="x")
    put(vaulted(tmp_path, before), {}, plain="y")
    tree = vaulted(tmp_path, after)
    assert tree.intact(), "a command that only looks sees no damage"
    number = tree.current

    tree.recover()

    assert tree.current == number
    assert tree.intact()
    assert live(tree) == {"k/a": OLD, "k/b": OLD + b"2", "plain": b"y"}
    places = {path.parent for path in on_disk(tmp_path, OLD)}
    if after:
        assert places == {tmp_path / after}
    else:
        assert all(place.is_relative_to(tree.path) or "mirror" in str(place) for place in places)
    put(tree, {"k/a": None, "k/b": None})
    assert on_disk(tmp_path, OLD) == []


@pytest.mark.parametrize("before, after", [(None, "run"), ("run", None), ("run", "other")])
def test_killed_while_moving_the_next_start_goes_on(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    """At every instruction nginx can read everything through `current`."""
    wanted = {"k/a": OLD, "plain": b"y"}
    for step in count(1):
        directory = tmp_path / str(step)
        put(started(directory, before), {"k/a": OLD}, plain="x")
        put(vaulted(directory, before), {}, plain="y")
        killed = killed_at(step, vaulted(directory, after).recover)
        assert live(vaulted(directory, after)) == wanted, step

        tree = vaulted(directory, after)
        tree.recover()
        assert live(tree) == wanted
        assert tree.intact()
        if after:
            assert {path.parent for path in on_disk(directory, OLD)} == {directory / after}, step
        else:
            assert not (directory / "run").exists() or stored(directory / "run") == []
        shutil.rmtree(directory)
        if not killed:
            return
        assert step < MOST


def rotate(tree: Tree) -> None:
    """Bring the new key, and drop the old one."""
    put(tree, {"k/a": None, "k/b": NEW})


def anew(tree: Tree) -> None:
    """What a start after a boot does."""
    tree.recover()
    tree.restore()
    put(tree, {"k/a": OLD})


@pytest.mark.parametrize("work, booted", [(rotate, False), (anew, True)])
def test_killed_at_any_system_call_no_secret_is_on_the_disk(
    tmp_path: Path, work: Callable[[Tree], None], *, booted: bool
) -> None:
    """Neither in what was abandoned nor in what is current, which is the old or the new one."""
    for step in count(1):
        directory = tmp_path / str(step)
        tree = vaulted(directory)
        put(tree, {"k/a": OLD}, plain="x")
        if booted:
            boot(directory)
            tree = vaulted(directory)
        killed = killed_at(step, lambda: work(tree))  # noqa: B023 (called at once)
        for secret in (OLD, NEW):
            assert all(path.is_relative_to(directory / "run") for path in on_disk(directory, secret)), step

        tree = vaulted(directory)
        tree.recover()
        if not booted:
            assert live(tree) in ({"k/a": OLD, "plain": b"x"}, {"k/b": NEW, "plain": b"x"}), step
            assert tree.intact()
        work(tree)
        wanted = [OLD] if booted else [NEW]
        assert (stored(directory / "run"), list(live(tree).values())) == (wanted, [*wanted, b"x"]), step
        shutil.rmtree(directory)
        if not killed:
            return
        assert step < MOST


def test_a_full_directory_changes_nothing(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The commit fails with what to do, and the next one succeeds."""
    with monkeypatch.context() as patch:
        patch.setattr("agentd.tree.disk.write", _full(tmp_path / "run"))
        with pytest.raises(TreeError, match="free some space"):
            put(tree, {"k/b": NEW})
    assert live(tree) == {"k/a": OLD, "plain": b"x"}

    put(tree, {"k/b": NEW})

    assert live(tree)["k/b"] == NEW


def _full(directory: Path) -> Callable[[Path, bytes, int], None]:
    from agentd.tree.disk import write  # noqa: PLC0415 (before it is replaced)

    def fail(path: Path, data: bytes, mode: int) -> None:
        if path.is_relative_to(directory):
            raise OSError(28, os.strerror(28), str(path))
        write(path, data, mode)

    return fail


def test_what_nginx_must_not_read_does_not_matter_to_the_others(tree: Tree, tmp_path: Path) -> None:
    """After a boot, another handler's commit keeps all its files."""
    commit(tree, "two", {"two": b"2"})
    boot(tmp_path)
    tree = started(tmp_path)
    with suppress(TreeError):
        tree.restore()

    commit(tree, "two", {"two": b"3"})

    assert live(tree) == {"plain": b"x", "two": b"3"}
