"""`agentd status`: how the daemon is, from itself if it answers, else from the journal and the tree.

The status is 0 only while the daemon runs, is ready, and every query has contact.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any, Final

import urllib3

from agentd.agent import open_tree, running
from agentd.commands.node import open_journal
from agentd.commands.output import Output, span
from agentd.config import Loaded, load
from agentd.options import parse_loopback

_PATIENCE: Final = 3.0
_QUERIES: Final = ("QUERY", "LAST CONTACT", "CHANGES", "MISSED", "TROUBLE")
Snapshot = dict[str, Any]


def execute(arguments: Namespace, output: Output) -> int:
    """Print the state; 1 if not all is well."""
    loaded = load(arguments.config)
    runs = running(loaded.config.state)
    answer = _ask(loaded) if runs else None
    state = answer or _remembered(loaded)
    source = "daemon" if answer else "journal and tree"
    told = {"running": runs, "source": source, **state, "trouble": _trouble(runs, state)}
    if output.json:
        output.document(told)
    else:
        _print(told, output)
    return int(bool(told["trouble"]))


def _ask(loaded: Loaded) -> Snapshot | None:
    """The daemon's own snapshot, or None if it does not answer."""
    address = loaded.config.status.address
    if address is None:
        return None
    host, port = parse_loopback(address)
    try:
        with urllib3.HTTPConnectionPool(host, port, timeout=_PATIENCE, retries=False) as pool:
            answer = pool.request("GET", "/status", headers={"Host": f"localhost:{port}"})
        found = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError):
        return None
    return found if isinstance(found, dict) and "generation" in found else None


def _remembered(loaded: Loaded) -> Snapshot:
    """The same from what is on disk; nothing is known of queries."""
    state: Snapshot = {"generation": open_tree(loaded.config).current, "reload_owed": [], "backlog": {}}
    journal = open_journal(loaded)
    if journal is not None:
        state |= {"reload_owed": journal.owed(), "backlog": journal.backlog()}
        journal.close()
    return state


def _trouble(runs: bool, state: Snapshot) -> list[str]:  # noqa: FBT001 (a value, not a switch)
    """What is not well, one text each."""
    if not runs:
        return ["the daemon does not run: start it with `systemctl start agentd` (or `agentd run`)"]
    if "queries" not in state:
        return ["the daemon runs, but does not answer on its status address"]
    lost = [f"query {one['query']}: {one['error']}" for one in state["queries"] if one.get("error")]
    stuck = [f"{name} shows no sign of life" for name in state.get("stuck", ())]
    return [*state.get("not_ready", ()), *stuck, *lost]


def _print(told: Snapshot, output: Output) -> None:
    by = f"pid {told['pid']}, version {told['version']}" if "pid" in told else "from the journal and the tree"
    owed = ", ".join(map(str, told["reload_owed"]))
    waiting = ", ".join(f"{name}: {count}" for name, count in sorted(told["backlog"].items()))
    output.pairs(
        {
            "daemon": f"{'running' if told['running'] else 'not running'} ({by})",
            "generation": told["generation"] or "none yet",
            "reload": f"owed for generation {owed}" if owed else "none owed",
            "backlog": waiting or "nothing waits",
        }
    )
    if "queries" in told:
        output.line()
        output.table(_QUERIES, [_query(one) for one in told["queries"]], empty="Nothing is watched.")
    for text in told["trouble"]:
        output.line(f"! {text}", "red")


def _query(one: Snapshot) -> list[object]:
    contact = one["last_contact"]
    ago = "never" if contact is None else f"{span(max(0.0, time.time() - contact))} ago"
    return [one["query"], ago, one["deliveries"], one["missed"], one["error"] or one["held"] or ""]
