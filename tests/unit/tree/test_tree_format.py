"""A tree that another version of agentd wrote is refused, and left exactly as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import FormatError
from agentd.tree.tree import Tree
from tests.unit.tree.trees import commit, everything, generations, new_tree, unprepared

UNKNOWN = [2, 99, 0, -1, "1", 1.0, True, None, [], {}]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree of three generations with a mirror, of which two are kept."""
    tree = new_tree(tmp_path, keep=2)
    for data in (b"1", b"2", b"3"):
        commit(tree, "one", {"a": data})
    return tree


def rewrite(directory: Path, found: object) -> Path:
    """Let another version have written the generation in `directory`."""
    file = directory / "manifest.json"
    body = json.loads(file.read_bytes())
    file.unlink()  # the mirror has the same file
    file.write_text(json.dumps(body | {"format": found, "unheard": "of"}))
    return file


ACTIONS: dict[str, Callable[[Tree], Any]] = {
    "stage": lambda tree: tree.stage("one"),
    "read": lambda tree: tree.open_current().read("a"),
    "intact": lambda tree: tree.intact(),
    "recover": lambda tree: tree.recover(),
    "restore": lambda tree: tree.restore(),
    "manifest": lambda tree: tree.manifest(tree.current),
    "roll back": lambda tree: tree.roll_back(2, prepare=unprepared),
}


@pytest.mark.parametrize("found", UNKNOWN, ids=repr)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_current_generation_of_an_unknown_format_is_refused(tree: Tree, action: str, found: object) -> None:
    """Whatever is asked: the message names the file, what was found and what is known, and what to do."""
    file = rewrite(tree.path / "generations" / "000003", found)
    before = everything(tree.path.parent)

    with pytest.raises(FormatError) as refused:
        ACTIONS[action](new_tree(tree.path.parent, keep=2))

    assert str(refused.value) == (
        f"{file} has format {found!r}, but this agentd only knows format 1; nothing was changed:"
        " run the version of agentd that wrote it, or move it away to start from scratch"
    )
    assert everything(tree.path.parent) == before


def test_what_was_staged_before_it_appeared_is_not_committed(tree: Tree) -> None:
    """Another version may start beside this one."""
    stage = tree.stage("one")
    stage.write("a", b"4")
    rewrite(tree.path / "generations" / "000003", 2)
    before = everything(tree.path.parent)

    with pytest.raises(FormatError):
        tree.commit(stage, extra={}, prepare=unprepared)

    assert everything(tree.path.parent) == before


def test_a_mirror_of_an_unknown_format_is_refused(tree: Tree) -> None:
    """Neither restored from nor written over at the start."""
    rewrite(tree.path.parent / "mirror" / "000003", 2)
    before = everything(tree.path.parent)

    with pytest.raises(FormatError, match=r"mirror/000003/manifest\.json has format 2"):
        new_tree(tree.path.parent).recover()

    assert everything(tree.path.parent) == before


def test_a_deleted_tree_is_not_restored_from_a_mirror_of_an_unknown_format(tree: Tree) -> None:
    """It stays deleted."""
    rewrite(tree.path.parent / "mirror" / "000003", 2)
    shutil.rmtree(tree.path)

    with pytest.raises(FormatError):
        tree.restore()

    assert not (tree.path / "current").exists()


def test_a_mirror_of_an_unknown_format_outlives_a_commit(tree: Tree) -> None:
    """The commit holds all the same, as it does whenever the mirror cannot be written."""
    rewrite(tree.path.parent / "mirror" / "000003", 2)
    before = everything(tree.path.parent / "mirror")

    commit(tree, "one", {"a": b"4"})

    assert tree.open_current().read("a") == b"4"
    assert everything(tree.path.parent / "mirror") == before


def test_a_restore_does_not_replace_a_generation_of_an_unknown_format(tree: Tree) -> None:
    """If `current` is lost, the generation of the same number may be another version's."""
    rewrite(tree.path / "generations" / "000003", 2)
    (tree.path / "current").unlink()
    before = everything(tree.path.parent)

    with pytest.raises(FormatError):
        tree.restore()

    assert everything(tree.path.parent) == before


def test_an_old_generation_of_an_unknown_format_is_not_pruned(tree: Tree) -> None:
    """Nor listed, nor rolled back to; what is current goes on."""
    rewrite(tree.path / "generations" / "000002", 2)
    before = everything(tree.path / "generations" / "000002")

    commit(tree, "one", {"a": b"4"})
    commit(tree, "one", {"a": b"5"})

    assert everything(tree.path / "generations" / "000002") == before
    assert [generation.number for generation in generations(tree)] == [4, 5]
    with pytest.raises(FormatError):
        tree.roll_back(2, prepare=unprepared)


def test_a_manifest_that_names_no_format_is_of_the_first(tree: Tree) -> None:
    """Manifests did not always name one."""
    file = tree.path / "generations" / "000003" / "manifest.json"
    body = json.loads(file.read_bytes())
    assert body.pop("format") == 1
    body.pop("digest")
    file.write_text(json.dumps(body))

    assert new_tree(tree.path.parent).open_current().read("a") == b"3"
