"""Whether what nginx reads beside the tree has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.nginx.inputs import inputs


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration directory as Debian's nginx has it, with agentd's tree in it."""
    for name in ("nginx.conf", "sites-available/www", "agentd/generations/000001/agentd.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# empty\n")
    (tmp_path / "sites-enabled").mkdir()
    (tmp_path / "sites-enabled" / "www").symlink_to("../sites-available/www")
    (tmp_path / "sites-enabled" / "gone").symlink_to("../sites-available/gone")
    return tmp_path


def write(conf: Path) -> None:
    """An editor that writes in place."""
    (conf / "nginx.conf").write_text("# longer than before\n")


def replace(conf: Path) -> None:
    """A configuration management that moves a file of the same size and time into place."""
    new = conf / "nginx.conf.new"
    new.write_text("# eempty\n"[:8])
    new.replace(conf / "nginx.conf")


def enable(conf: Path) -> None:
    """What `ln -s` does."""
    (conf / "sites-enabled" / "other").symlink_to("../sites-available/www")


def disable(conf: Path) -> None:
    """What `rm` does."""
    (conf / "sites-enabled" / "www").unlink()


def mend(conf: Path) -> None:
    """The file that a link points to comes into being."""
    (conf / "sites-available" / "gone").write_text("# here\n")


@pytest.mark.parametrize("change", [write, replace, enable, disable, mend])
def test_any_change_of_a_file_is_seen(conf: Path, change: Callable[[Path], None]) -> None:
    """Whoever makes it, and however."""
    before = inputs(conf, conf / "agentd")

    change(conf)

    after = inputs(conf, conf / "agentd")
    assert after.digest != before.digest
    assert after.newest >= before.newest


def test_the_tree_does_not_count(conf: Path) -> None:
    """Each commit changes it."""
    before = inputs(conf, conf / "agentd")

    (conf / "agentd" / "generations" / "000002").mkdir()

    assert inputs(conf, conf / "agentd") == before


def test_a_directory_that_is_missing_is_no_error(tmp_path: Path) -> None:
    """Once it is there, that is a change."""
    before = inputs(tmp_path / "nginx", tmp_path / "nginx" / "agentd")
    (tmp_path / "nginx").mkdir()

    assert inputs(tmp_path / "nginx", tmp_path / "nginx" / "agentd").digest != before.digest
