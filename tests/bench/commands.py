"""How long a whole command takes that only reads, against the interpreter alone.

The daemon answers `status`; the journal and the tree hold what a day brings.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from agentd.handler import Event
from agentd.journal.entry import Ending, Outcome
from agentd.journal.journal import Journal
from tests.bench.rows import Row, p50, spread
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node, main_job
from tests.servers.tls import make_certificate

CHANGES, TIMES = 1000, 25
GOAL = 5.0
COMMANDS = ("--version", "status", "history", "generations")


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Each command in turn with `python3 -c pass`, so that both meet the same machine."""
    file = _node(stack, directory)
    for name in COMMANDS:
        argv = [sys.executable, "-m", "agentd", name]
        ours, theirs = [], []
        for _ in range(TIMES):
            theirs.append(_timed([sys.executable, "-c", "pass"]))
            ours.append(_timed(argv if name == "--version" else [*argv, "--config", str(file)]))
        yield Row(
            f"agentd {name}, whole command, p50 of {TIMES}", "ms",
            p50(ours) * 1e3, "python3 -c pass", p50(theirs) * 1e3, GOAL,
            spread([1e3 * one for one in ours]),
        )  # fmt: skip


def _timed(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _node(stack: ExitStack, directory: Path) -> Path:
    """The configuration of a daemon at work, with many changes in its journal."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers=main_job())
    stack.callback(node.stop)
    node.start()
    with closing(Journal(Path(node.config["state"]) / "journal.db")) as journal:
        for number in range(CHANGES):
            raw = {"ID": f"{number:08x}-0", "Name": "old", "Payload": None, "LTime": number}
            entry = journal.queue("a-former-handler", Event("event", raw))
            journal.end([Ending(entry, Outcome.UNCHANGED)])
    return node.configuration
