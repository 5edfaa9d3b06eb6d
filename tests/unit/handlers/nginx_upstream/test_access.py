"""Who else can connect to a run-time interface: directories and sockets as they are on a machine."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.nginx_upstream.access import doubt


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that anybody may pass, all the way down."""
    with tempfile.TemporaryDirectory(prefix="agentd-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def listen(path: Path, mode: int) -> socket.socket:
    """A socket with this mode."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)
    return listener


@pytest.mark.parametrize(
    "place, nginx, cure",
    [
        ("http://127.0.0.1:9522/dynamic", True, "agentd example nginx/dynamic-upstream.conf"),
        ("tcp:127.0.0.1:9999", False, "`stats socket PATH mode 660 level admin`"),
    ],
)
def test_a_tcp_interface_is_told(place: str, nginx: bool, cure: str) -> None:  # noqa: FBT001 (pytest's way)
    """It works, and everybody on the machine can use it."""
    told = doubt(place, nginx=nginx)

    assert told.startswith(f"every user of this machine can connect to {place}")
    assert cure in told


def test_the_directory_protects_nginxs_socket(directory: Path) -> None:
    """Its own mode does not: nginx always gives it 0666."""
    place = f"unix:{directory}/s:/dynamic"
    with listen(directory / "s", 0o666):
        told = doubt(place, nginx=True)
        directory.chmod(0o750)
        protected = doubt(place, nginx=True)

    assert "give its directory mode 0750" in told
    assert protected == ""


def test_a_directory_further_up_protects_as_well(directory: Path) -> None:
    """Nobody gets through it."""
    directory.chmod(0o750)
    (directory / "below").mkdir(mode=0o755)

    assert doubt(f"unix:{directory}/below/s:/", nginx=True) == ""


def test_a_link_to_an_open_directory_does_not_protect(directory: Path) -> None:
    """The socket is where the link leads."""
    closed, opened = directory / "closed", directory / "opened"
    closed.mkdir(mode=0o750)
    opened.mkdir(mode=0o755)
    (closed / "link").symlink_to(opened)

    assert doubt(f"unix:{closed}/link/s:/", nginx=True) != ""


def test_a_missing_directory_is_told_before_nginx_fails(directory: Path) -> None:
    """With the command that makes it."""
    assert f"`install -d -m 0750 {directory}/none`" in doubt(f"unix:{directory}/none/s:/dynamic", nginx=True)


@pytest.mark.parametrize("mode, told", [(0o666, True), (0o660, False)])
def test_haproxys_own_mode_protects_its_socket(
    directory: Path,
    mode: int,
    told: bool,  # noqa: FBT001 (pytest passes parameters by name)
) -> None:
    """As its configuration says."""
    with listen(directory / "s", mode):
        found = doubt(f"unix:{directory}/s", nginx=False)

    assert ("`mode 660`" in found) is told
    assert bool(found) is told
