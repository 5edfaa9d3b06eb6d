"""kill -9 at arbitrary points: every event is applied exactly once, and nginx could always load the tree."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.tally import PATH
from tests.servers.fleet import Node
from tests.servers.waiting import wait_until

EVENTS = 200
KILLS = int(os.environ.get("AGENTD_KILLS", "10"))


@pytest.mark.parametrize("handler", ["Tally", "VerifiedTally"])
def test_kill_9_loses_nothing_and_repeats_nothing(
    new_node: Callable[..., Node], suffix: str, handler: str
) -> None:
    """200 events under many kills: 200 lines, none twice, all applied."""
    handlers = {
        "tally": {
            "use": f"tests.integration.tally:{handler}",
            "retry": {"first": "100ms", "longest": "1s"},
            "on": [{"event": f"tally{suffix}"}],
            "notify": ["nginx-reload"],
        },
        "nginx-reload": {"use": "nginx_reload", "options": {"interval": "100ms"}},
    }
    node = new_node(handlers=handlers)
    node.start()
    firing = threading.Thread(target=_fire, args=(node, f"tally{suffix}"))
    firing.start()
    chance = random.Random(20161123)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.0, 0.35))
        node.agentd.kill()
        assert node.passes_check()
        starts = _starts(node)
        node.agentd.process.spawn()
        wait_until(partial(_more_starts, node, starts), "the daemon to begin")
    firing.join()
    node.agentd.kill()
    node.agentd.start()
    wait_until(lambda: len(_applied(node)) >= EVENTS, "200 outcomes", pause=0.2)
    lines = node.read(PATH).decode().split()
    assert sorted(lines, key=int) == [str(number) for number in range(EVENTS)]
    assert _count(node) == EVENTS
    assert node.passes_check()


def _fire(node: Node, name: str) -> None:
    for number in range(EVENTS):
        node.fire(name, str(number).encode())
        time.sleep(0.002 * KILLS)  # as long as the kills go on


def _more_starts(node: Node, than: int) -> bool:
    assert node.agentd.process.exit_status is None, node.agentd.log_lines()[-5:]
    return _starts(node) > than


def _starts(node: Node) -> int:
    return sum("agent.starting" in line for line in node.agentd.log_lines())


def _applied(node: Node) -> list[str]:
    return [entry["id"] for entry in node.history("tally") if entry["outcome"] == "applied"]


def _count(node: Node) -> int:
    with sqlite3.connect(f"file:{node.directory / 'state' / 'journal.db'}?mode=ro", uri=True) as journal:
        row = journal.execute("SELECT body FROM store WHERE handler = 'tally'").fetchone()
    return int(json.loads(row[0])["count"])
