"""The way to `dest`: through whose directories it may lead, and over whose links."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import PermanentError
from handlers.deploy.place import open_place
from tests.servers.equipment import require_root

SELF = frozenset({0, os.geteuid()})
OTHER = 65534


def go(target: Path | str, trusted: frozenset[int] = SELF, *, follow: bool = True) -> tuple[Path, int]:
    """Where the way leads: the path, and the inode of the parent."""
    with open_place(str(target), trusted, follow=follow) as place:
        return place.path, os.fstat(place.parent).st_ino


def place_in(parent: Path, name: str = "app") -> tuple[Path, int]:
    """What the way to a name in `parent` leads to."""
    return parent / name, parent.stat().st_ino


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def given(owner: int) -> Callable[[Path], None]:
    """Give a directory to somebody."""
    return lambda path: os.chown(path, owner, -1)


def test_the_parent_is_open_whether_or_not_there_is_a_dest(tmp_path: Path) -> None:
    """A file is a place, too; what becomes of it is not decided here."""
    before = go(tmp_path / "app")
    (tmp_path / "app").mkdir()
    (tmp_path / "file").touch()

    assert before == go(tmp_path / "app") == go(f"{tmp_path}//./app/") == place_in(tmp_path)
    assert go(tmp_path / "file") == place_in(tmp_path, "file")


def test_links_lead_where_the_kernel_would_go(tmp_path: Path) -> None:
    """Relative and absolute ones, on the way and at its end."""
    real = tmp_path / "data" / "www"
    real.mkdir(parents=True)
    (tmp_path / "srv").symlink_to("data/../data/./www")
    (real / "current").symlink_to("releases/5")
    (real / "releases").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "data" / "..")

    assert go(tmp_path / "srv" / "app") == place_in(real)
    assert go(tmp_path / "srv" / "current") == place_in(tmp_path, "5")
    assert go(tmp_path / "self") == place_in(tmp_path.parent, tmp_path.name)


def test_a_link_that_is_not_to_be_followed_is_refused(tmp_path: Path) -> None:
    """Below a `*`, for one."""
    (tmp_path / "app").symlink_to("elsewhere")

    with pytest.raises(PermanentError, match="leads elsewhere"):
        go(tmp_path / "app", follow=False)


def test_links_without_end_are_refused(tmp_path: Path) -> None:
    """As the kernel does it."""
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(PermanentError, match="more than 40 links"):
        go(tmp_path / "loop")


@pytest.mark.parametrize("name", ["none/app", "file/app"])
def test_where_there_is_no_parent_there_is_no_place(tmp_path: Path, name: str) -> None:
    """A directory is missing, or is none."""
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=str(tmp_path / name.partition("/")[0])):
        go(tmp_path / name)


def test_the_root_directory_is_no_place() -> None:
    """It has no parent."""
    with pytest.raises(PermanentError, match="root directory"):
        go("/..")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777, 0o1775])
def test_a_parent_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """The option is named; a sticky bit does not keep them from making a name."""
    tmp_path.chmod(mode)

    with pytest.raises(PermanentError, match=rf"{tmp_path} can be written by .*`parent_owner`"):
        go(tmp_path / "app")


@pytest.mark.parametrize("exists", [True, False], ids=["there", "not there"])
def test_an_ancestor_that_others_can_write_is_refused(tmp_path: Path, exists: object) -> None:
    """They could put another directory in place of the next one."""
    parent = tmp_path / "a" / "b"
    if exists:
        parent.mkdir(parents=True)
    tmp_path.chmod(0o777)

    with pytest.raises(PermanentError, match=rf"{tmp_path} can be written by everyone"):
        go(parent / "app")


def test_a_sticky_ancestor_is_no_danger(tmp_path: Path) -> None:
    """In /tmp nobody can move what is root's."""
    parent = tmp_path / "a"
    parent.mkdir()
    tmp_path.chmod(0o1777)

    assert go(parent / "app") == place_in(parent)


def test_what_somebody_made_in_a_sticky_ancestor_is(tmp_path: Path) -> None:
    """It is theirs to move."""
    require_root("give files away")
    parent = tmp_path / "a"
    parent.mkdir()
    given(OTHER)(parent)
    tmp_path.chmod(0o1777)

    with pytest.raises(PermanentError, match="can be written by"):
        go(parent / "app")


def test_the_directory_of_a_link_counts_as_well(tmp_path: Path) -> None:
    """Whoever can write it can have the link lead elsewhere."""
    real, open_to_all = tmp_path / "real", tmp_path / "all"
    real.mkdir()
    open_to_all.mkdir()
    (open_to_all / "srv").symlink_to(real)
    open_to_all.chmod(0o777)

    with pytest.raises(PermanentError, match=rf"{open_to_all} can be written by everyone"):
        go(open_to_all / "srv" / "app")


def test_the_owner_of_a_parent_can_be_trusted(tmp_path: Path) -> None:
    """Only the one who is named."""
    require_root("give files away")
    given(OTHER)(tmp_path)

    with pytest.raises(PermanentError, match=r"written by its owner nobody, .*`parent_owner`"):
        go(tmp_path / "app")
    assert go(tmp_path / "app", SELF | {OTHER}) == place_in(tmp_path)


def test_the_links_of_a_trusted_owner_are_not_followed(tmp_path: Path) -> None:
    """They may write their directory, and have it lead to no other."""
    require_root("give files away")
    given(OTHER)(tmp_path)
    for name in ("app", "srv"):
        (tmp_path / name).symlink_to("/etc")
        os.chown(tmp_path / name, OTHER, -1, follow_symlinks=False)

    for target in (tmp_path / "app", tmp_path / "srv" / "nginx"):
        with pytest.raises(PermanentError, match="link owned by nobody"):
            go(target, SELF | {OTHER})


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Whether it ends well or not."""
    before = descriptors()
    (tmp_path / "a" / "b").mkdir(parents=True)
    tmp_path.chmod(0o777)
    for target in (tmp_path / "a" / "b" / "c", "/", "/none/such", "/etc/passwd/x"):
        with pytest.raises((OSError, PermanentError)):
            go(target)
    go("/etc/app")

    assert descriptors() == before
