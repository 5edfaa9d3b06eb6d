"""What of nginx's configuration files is remembered, to know when to read them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.nginx.files import NginxFiles


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A main file that includes a directory of sites, and a file that is missing."""
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "a.conf").write_text("server { listen 80; root /; }")
    (tmp_path / "nginx.conf").write_text("http { include sites/*.conf; include none.conf; }")
    return tmp_path / "nginx.conf"


def test_unchanged_files_need_not_be_read_again(conf: Path) -> None:
    """However often they are looked at."""
    seen = NginxFiles(conf).snapshot()

    assert seen.holds()
    assert seen.holds()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "sites" / "a.conf").write_text("server { listen 81; root /; }"),
        lambda root: (root / "sites" / "b.conf").write_text(""),
        lambda root: (root / "sites" / "a.conf").unlink(),
        lambda root: (root / "none.conf").write_text(""),
    ],
)
def test_any_change_is_noticed(conf: Path, change: Callable[[Path], object]) -> None:
    """A file changed, added, removed, or there at last."""
    seen = NginxFiles(conf).snapshot()

    change(conf.parent)

    assert not seen.holds()


def test_only_the_directives_asked_for_are_read(conf: Path) -> None:
    """Includes are followed all the same."""
    found = NginxFiles(conf, {"http", "server", "listen"})

    assert [one.name for one in found.directives] == ["http", "include", "server", "listen", "include"]


def test_a_long_list_is_passed_over(conf: Path) -> None:
    """However long, if no wanted directive is in it; else it would be a problem."""
    (conf.parent / "none.conf").write_text("deny 192.0.2.1;\n" * 300_000)

    wanted = NginxFiles(conf, {"http", "server", "listen"})
    everything = NginxFiles(conf)

    assert [one.name for one in wanted.directives] == ["http", "include", "server", "listen", "include"]
    assert (wanted.problems, len(everything.problems)) == ([], 1)


def test_a_long_file_with_a_wanted_directive_is_read(conf: Path) -> None:
    """It may have servers after its list."""
    (conf.parent / "none.conf").write_text("deny 192.0.2.1;\n" * 10_000 + "server { listen 81; }")

    found = NginxFiles(conf, {"http", "server", "listen"})

    assert [one.line for one in found.named("listen")] == [1, 10_001]
