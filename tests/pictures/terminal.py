"""Pictures of a terminal: what agentd's commands print on the nodes of a real fleet."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.pictures.screen import svg
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job, start_fleet
from tests.servers.tls import make_certificate
from tests.servers.waiting import PATIENCE, wait_until

COLUMNS: Final = 118
SIZE: Final = 3
_PROMPT: Final = "\x1b[90m$\x1b[0m "


class Scene(NamedTuple):
    """One picture.

    Attributes:
        name: of the file, without `.svg`.
        title: in the bar of the window.
        description: what it shows, for who cannot see it.
        before: brings the fleet to where the commands are interesting.
        commands: run on the first node, as typed.
    """

    name: str
    title: str
    description: str
    before: Callable[[list[Node]], None]
    commands: tuple[str, ...]


def take(place: Path) -> Iterator[Path]:
    """Write the pictures into that directory; yields each file."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentd-")))
        certificate = make_certificate(directory)
        handlers = main_job(promote_after="1s", kept=True)
        settings = {"fleet": {"name": "production"}}
        nodes = start_fleet(stack, directory, certificate, SIZE, handlers, settings)
        for node in nodes:
            node.agentd.await_listening()
        for scene in SCENES:
            scene.before(nodes)
            typed = [f"{_PROMPT}{line}\n{_typed(nodes[0], line)}" for line in scene.commands]
            file = place / f"{scene.name}.svg"
            file.write_text(svg("\n\n".join(typed), title=scene.title, description=scene.description))
            yield file


# ---------------------------------------------------------------- how the fleet gets there


def _rotated_and_blocked(nodes: list[Node]) -> None:
    before = nodes[0].tickets()[0].name
    _shell(nodes[0], "openssl rand 80 | agentd fire tls-session-ticket-refresh -")
    wait_until(lambda: nodes[0].tickets()[0].name != before, "the key to encrypt")
    _shell(nodes[0], "agentd fire ip-blacklist 'add 198.51.100.7 10m # login attempts'")
    wait_until(lambda: _agree(nodes), "the nodes to agree")
    wait_until(lambda: all(one["outcome"] for one in nodes[0].history()), "all outcomes")


def _one_is_down(nodes: list[Node]) -> None:
    nodes[2].agentd.stop()
    nodes[2].consul.stop()
    _shell(nodes[0], "agentd fire ip-blacklist 'add 203.0.113.7 10m'")
    wait_until(lambda: _row(nodes[0], "ip-blacklist") == "2 of 3", "the others to have it")


def _back_and_nonsense(nodes: list[Node]) -> None:
    nodes[2].consul.start()
    nodes[2].agentd.start()
    wait_until(lambda: _row(nodes[0], "ip-blacklist") == "3 of 3", "it to catch up")
    event = nodes[0].consul.fire(BLACKLIST_EVENT, b"add 198.51.100.700")
    wait_until(lambda: (nodes[0].entry(event) or {}).get("outcome"), "the refusal")
    wait_until(lambda: nodes[0].agentd.command("status").returncode == 1, "status to tell it", seconds=20)


def _agree(nodes: list[Node]) -> bool:
    return nodes[0].agentd.command("fleet").returncode == 0


def _row(node: Node, name: str) -> str:
    """On how many nodes the newest message of a name is in force, as `agentd fleet` says."""
    lines = node.agentd.command("fleet").stdout.splitlines()
    found = [line.split() for line in lines if line.startswith(f"{name} ") and " of " in line]
    return " ".join(found[-1][2:5]) if found else ""


SCENES: Final = (
    Scene(
        "history",
        "lb1: what became of each change",
        "agentd history: the newest changes of a node with handler, outcome, generation and time taken; then"
        " agentd blacklist why, which names the event that blocks an address.",
        _rotated_and_blocked,
        ("agentd history --limit 6", "agentd blacklist why 198.51.100.7"),
    ),
    Scene(
        "fleet",
        "lb1: which node runs what",
        "agentd fleet: three nodes, one of which is stopped and behind; the newest message is in force on two"
        " of three.",
        _one_is_down,
        ("agentd fleet",),
    ),
    Scene(
        "refused",
        "lb1: an event that makes no sense",
        "agentd history and agentd status after a refused event: the reason is told first, the files and the"
        " generation have not changed.",
        _back_and_nonsense,
        ("agentd history --limit 1", "agentd status"),
    ),
)


# ---------------------------------------------------------------- the terminal


def _shell(node: Node, line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line], env=_environment(node),
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout


def _typed(node: Node, line: str) -> str:
    """What a command prints on a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["bash", "-c", line],
        env=_environment(node),
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
    ):
        os.close(follower)
        parts = []
        with suppress(OSError):  # the end, on Linux
            while data := os.read(leader, 65536):
                parts.append(data)
    os.close(leader)
    return b"".join(parts).decode().replace("\r\n", "\n").rstrip("\n")


def _environment(node: Node) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    return {
        **kept,
        **node.consul.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AGENTD_CONFIG": str(node.configuration),
        "TERM": "xterm-256color",
    }
