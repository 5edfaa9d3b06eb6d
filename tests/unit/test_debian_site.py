"""Who may add code to the agentd of the Debian package, which runs as root."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

_FILE: Final = Path(__file__).parents[2] / "scripts/debian/agentd_site.py"
_STARTED: Final = ["/usr/lib/agentd/bin/python3", "-I", "-m", "agentd", "check"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The directory, below one that stands for /usr/local."""
    made = tmp_path / "local/lib/agentd"
    made.mkdir(parents=True)
    for place in (made, made.parent, made.parent.parent):
        place.chmod(0o755)
    return made


def added(site: Path, *started: str) -> list[str]:
    """What the module adds to the path."""
    path: list[str] = []
    module: dict[str, Any] = runpy.run_path(str(_FILE))
    module["add"](str(site), path, list(started or _STARTED))
    return path


def test_what_only_root_can_write_to_is_used(site: Path) -> None:
    """And nothing is said; nor where there is no such directory."""
    assert added(site) == [str(site)]
    assert added(site / "missing") == []


def _by_link(site: Path) -> Path:
    linked = site.parent.parent / "linked"
    linked.mkdir()
    linked.chmod(0o757)
    (linked / "agentd").symlink_to(site)
    return linked / "agentd"


def _writable(above: int) -> Callable[[Path], Path]:
    def spoil(site: Path) -> Path:
        [site, *site.parents][above].chmod(0o777)
        return site

    return spoil


@pytest.mark.parametrize("spoil", [_writable(0), _writable(1), _writable(2), _by_link])
def test_what_others_can_write_to_is_left_out(
    site: Path, spoil: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Be it the directory, one above it, or one that leads to it; the command says so, its parts do not."""
    spoiled = spoil(site)

    assert added(spoiled) == []
    said = capsys.readouterr().err
    assert added(spoiled, "/usr/lib/agentd/bin/python3", "-I", "-m", "agentd.limits") == []

    assert said.startswith(f"agentd: warning: {spoiled} is not used, because others than root can write to ")
    assert "chmod go-w" in said
    assert capsys.readouterr().err == ""
