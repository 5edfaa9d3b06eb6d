"""The scripts that dpkg runs, in a directory that stands for /, with programs that only note their calls."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SCRIPTS: Final = Path(__file__).parents[2] / "scripts" / "debian"
_PATH: Final = re.compile(r"(?<![\w}.|])/(?=(?:etc|proc|run|usr|var)/)")  # but not in a pattern of grep's
_SAID: Final = "/etc/nginx/agentd and /run/agentd stay, because "
_TOOLS: Final = ("cat", "grep", "ls", "mkdir", "rm", "rmdir", "sed", "timeout", "tr")


class Node:
    """What the scripts see."""

    def __init__(self, root: Path) -> None:
        """A node with a tree, a state, and the programs that the scripts cannot do without."""
        self.root = root
        for directory in (
            "bin",
            "etc/nginx/agentd/current",
            "run/agentd",
            "run/systemd/system",
            "var/lib/agentd",
        ):
            (root / directory).mkdir(parents=True)
        for tool in _TOOLS:
            path = next(Path(at, tool) for at in ("/usr/bin", "/bin") if Path(at, tool).exists())
            (root / "bin" / tool).symlink_to(path)
        self.program("systemctl")
        self.program("deb-systemd-invoke")

    def program(self, name: str, does: str = "true") -> None:
        """Add one that notes its call."""
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.root}/calls\n{does}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> str:
        """Run a script as dpkg does; returns what it said. It must succeed."""
        text = (_SCRIPTS / script).read_text()
        text = _PATH.sub(f"{self.root}/", text).replace(f"{self.root}/usr/bin/agentd", "agentd")
        done = subprocess.run(
            ["/bin/sh", "-c", text, script, *arguments],
            env={"PATH": str(self.root / "bin")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr.replace(str(self.root), "")

    def calls(self) -> list[str]:
        """How the programs were called, in order."""
        noted = self.root / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.lexists(self.root / path)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One that may do as it likes."""
    return Node(tmp_path)


INCLUDED = "echo 'http { include agentd/current/agentd.conf; }'"


@pytest.mark.parametrize(
    "nginx, haproxy, why",
    [
        (INCLUDED, "", "nginx's configuration includes it"),
        ("echo 'listen unix:/run/agentd/nginx.sock;'", "", "nginx's configuration includes it"),
        ("exit 1", "", "'nginx -T' fails"),
        ("", "", "there is no nginx to ask"),
        ("true", "bind :443 tls-ticket-keys /etc/nginx/agentd/current/k", "HAProxy's configuration names it"),
        ("true", "", ""),
        ("echo '# include agentd/current/agentd.conf;'", "", ""),
    ],
)  # fmt: skip
def test_purge_keeps_a_tree_that_is_read_or_may_be(node: Node, nginx: str, haproxy: str, why: str) -> None:
    """And says why; the state goes in any case."""
    if nginx:
        node.program("nginx", nginx)
    (node.root / "etc/haproxy").mkdir()
    (node.root / "etc/haproxy/haproxy.cfg").write_text(haproxy)

    node.run("postrm", "remove")
    said = node.run("postrm", "purge")

    kept = (node.has("etc/nginx/agentd"), node.has("run/agentd"), node.has("etc/tmpfiles.d/agentd.conf"))
    assert kept == (bool(why),) * 3
    assert (f"{_SAID}{why}" in said) == bool(why)
    assert not node.has("var/lib/agentd")


def test_what_a_removal_left_goes_when_the_package_comes_back(node: Node) -> None:
    """But not a file of the operator's in the same place."""
    node.program("nginx", INCLUDED)
    (node.root / "etc/tmpfiles.d").mkdir()
    (node.root / "etc/tmpfiles.d/agentd.conf").write_text("# mine\n")
    node.run("postrm", "remove")
    left = node.has("etc/systemd/system/nginx.service.d/agentd.conf")

    node.run("postinst", "configure", "0.1.0")

    assert (left, node.has("etc/systemd/system/nginx.service.d/agentd.conf")) == (True, False)
    assert (node.root / "etc/tmpfiles.d/agentd.conf").read_text() == "# mine\n"


@pytest.mark.parametrize(
    "before, running, check, restarts",
    [
        ("0.1.0", True, 0, 1),
        ("0.1.0", True, 1, 1),  # a problem elsewhere, such as Consul's
        ("0.1.0", True, 2, 0),
        ("0.1.0", False, 0, 0),
        ("", True, 0, 0),  # one that was installed another way
    ],
)
def test_an_upgrade_restarts_once_what_runs_and_will_run(
    node: Node, before: str, check: int, restarts: int, *, running: bool
) -> None:
    """Not what is stopped, nor what would refuse its configuration; the upgrade itself succeeds."""
    node.program("systemctl", f'[ "$2" != is-active ] || exit {0 if running else 3}')
    node.program("agentd", f"exit {check}")

    said = node.run("postinst", "configure", before)

    calls = node.calls()
    assert calls.count("deb-systemd-invoke try-restart agentd.service") == restarts
    assert [one for one in calls if " start " in one or " restart " in one or " enable " in one] == []
    assert ("is not valid, so the daemon was not restarted" in said) == (check == 2)


def test_a_restart_that_fails_does_not_fail_the_upgrade(node: Node) -> None:
    """The operator is told where to look."""
    node.program("agentd")
    node.program("deb-systemd-invoke", "exit 1")

    assert "The daemon did not start again" in node.run("postinst", "configure", "0.1.0")


def test_the_first_installation_tells_what_hides_it(node: Node) -> None:
    """The unit and the link of an installation by pip; not a unit that is masked."""
    for path, target in (
        ("usr/local/bin/agentd", "/opt/x"),
        ("etc/systemd/system/agentd.service", "/dev/null"),
    ):
        (node.root / path).parent.mkdir(parents=True, exist_ok=True)
        (node.root / path).symlink_to(target)
    (node.root / "etc/systemd/system/agentd-rotate-tickets.timer").touch()

    said = node.run("postinst", "configure", "")

    assert "/usr/local/bin/agentd hides" in said
    assert "/etc/systemd/system/agentd-rotate-tickets.timer hides" in said
    assert "agentd.service hides" not in said


def test_removal_stops_the_timer_and_the_daemon_and_an_upgrade_nothing(node: Node) -> None:
    """In an upgrade the new package restarts the daemon, once."""
    node.run("prerm", "upgrade", "0.2.0")
    upgraded = node.calls()

    node.run("prerm", "remove")

    stop = "deb-systemd-invoke stop agentd-rotate-tickets.timer agentd-rotate-tickets.service agentd.service"
    assert (upgraded, node.calls()) == ([], [stop])


def test_without_systemd_nothing_is_asked_of_it(node: Node) -> None:
    """As in a chroot or a container that is being built."""
    (node.root / "run/systemd/system").rmdir()

    for script, action in (
        ("postinst", "configure"),
        ("prerm", "remove"),
        ("postrm", "remove"),
        ("postrm", "purge"),
    ):
        node.run(script, action, "")

    assert node.calls() == []
