"""Where the data files are found, for each way to install agentd; test_wheel.py installs it for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd import shipped
from agentd.errors import AgentdError


@pytest.mark.parametrize(
    "code, data",
    [
        ("work", "work"),
        ("target", "target/share/agentd"),
        ("opt/lib/python3.11/site-packages", "opt/share/agentd"),
        ("usr/local/lib/python3.11/dist-packages", "usr/local/share/agentd"),
        ("usr/lib/agentd", "usr/share/agentd"),
    ],
    ids=["checkout", "target", "environment", "system", "package"],
)
def test_they_are_found_from_where_the_code_is(code: str, data: str, tmp_path: Path) -> None:
    """Beside it, below it, or below its prefix."""
    (tmp_path / code / "agentd").mkdir(parents=True)
    (tmp_path / data / "config").mkdir(parents=True)
    (tmp_path / data / "config/agentd.yaml").touch()
    if code == data:
        (tmp_path / code / "pyproject.toml").touch()

    assert shipped.directory(tmp_path / code) == tmp_path / data


def test_nothing_else_is_taken_for_them(tmp_path: Path) -> None:
    """A directory of the same name further up may be anybody's."""
    for above in ("", "one/", "one/two/"):
        (tmp_path / f"{above}share/agentd/config").mkdir(parents=True)
        (tmp_path / f"{above}share/agentd/config/agentd.yaml").touch()

    with pytest.raises(AgentdError, match="install agentd again"):
        shipped.directory(tmp_path / "one/two/three")


def test_a_checkout_has_all_of_them() -> None:
    """These are read by name elsewhere."""
    assert shipped.file("systemd/agentd.service").is_file()
    assert shipped.file("config/nginx/agentd-http.conf").is_file()
