"""Whether an nginx runs that serves the tree, where none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.nginx.presence import Presence
from agentd.options import NginxOptions
from tests.unit.scripted_http import scripted_server

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n42 4711\n"
_LOOKS: tuple[Callable[[Presence], str], ...] = (Presence.down, Presence.masterless)


def test_one_that_does_not_run_is_told_with_its_configuration(tmp_path: Path) -> None:
    """There is neither a master nor a canary."""
    nginx = NginxOptions(conf=tmp_path / "nginx.conf", pid=tmp_path / "pid", canary=tmp_path / "s")
    presence = Presence(nginx)
    assert presence.down() == f"nginx is not running: no master runs with {nginx.conf}"
    assert presence.masterless() == f"no master of nginx runs with {nginx.conf}"


def test_workers_that_answer_serve_without_a_master(tmp_path: Path) -> None:
    """It was killed, or cannot be seen; they cannot be reloaded."""
    nginx = NginxOptions(conf=tmp_path / "nginx.conf", pid=tmp_path / "pid", canary=tmp_path / "s")
    with scripted_server(nginx.canary) as server:
        server.answers = [_ANSWER]
        assert Presence(nginx).down() == ""
    assert Presence(nginx).masterless()


@pytest.mark.parametrize("look", _LOOKS)
def test_what_cannot_be_told_is_said(tmp_path: Path, look: Callable[[Presence], str]) -> None:
    """The pid file, from which one would know it, is a directory."""
    (tmp_path / "pid").mkdir()
    nginx = NginxOptions(conf=tmp_path / "nginx.conf", pid=tmp_path / "pid", canary=tmp_path / "s")
    assert str(tmp_path / "pid") in look(Presence(nginx))
