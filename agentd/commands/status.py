"""`agentd status`: is this node all right now? What is wrong comes first, then handlers, then queries.

Of the handlers, those with which something is wrong come first, then those that failed lately. Asks the
daemon; if that does not answer, the journal and the tree are read. Imports as little as it can: monitoring
runs it often.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from contextlib import closing
from http import HTTPStatus
from typing import Any, Final

from agentd import http
from agentd.commands.daemon_address import DaemonAddress
from agentd.commands.output import Output, moment, one_line, span
from agentd.commands.parser import Parser
from agentd.commands.places import Places, open_journal, read_places
from agentd.trouble import by_urgency, handler_state, name_state, part_state, query_state, troubles

_PATIENCE: Final = 3.0
_LARGEST: Final = 16 * 1024 * 1024
Snapshot = dict[str, Any]
# What a daemon of another version may leave out, or not know of.
_STATE: Final[Snapshot] = {"reload_pending": [], "backlog": {}, "handlers": {}, "queries": []}
_HANDLER: Final[Snapshot] = {
    "drift": [],
    "live": None,
    "waiting": 0,
    "waiting_since": None,
    "last_failure": None,
    "paused": None,
}
_QUERY: Final[Snapshot] = {"last_contact": None, "deliveries": 0, "missed": 0, "error": None, "held": None}


def add_arguments(parser: Parser) -> None:
    """Only `--config` and `--json`, which every command has."""
    parser.add_example("sudo agentd status", "sudo agentd status --json | jq .trouble")
    parser.add_exit_status(
        "0 while the daemon runs and nothing is wrong; 1 if something is, as the lines with `!` say."
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Print the state; 1 if something is wrong."""
    places = read_places(arguments.config)
    runs = places.running
    answer = _ask(places) if runs else None
    state = answer or _remembered(places)
    source = "daemon" if answer else "journal and tree"
    state.setdefault("handlers", {})
    found = {"running": runs, "source": source, **state, "trouble": list(troubles(state, runs=runs))}
    if output.json:
        output.document(found)
    else:
        _print(found, output)
    return int(bool(found["trouble"]))


def ask_daemon(address: DaemonAddress) -> Snapshot:
    """What the daemon answers at /status, of JSON's types.

    Raises:
        ConfigError: its certificate or token cannot be read here.
        ExchangeError: no complete answer.
        ValueError: the answer is not agentd's, or it refuses the token.
    """
    answer = address.exchange("/status", timeout=_PATIENCE, max_size=_LARGEST)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise ValueError("it refuses the token in status.token_file")
    try:
        found = json.loads(answer.body)
    except RecursionError:  # not agentd's, which is a few levels deep
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("generation", ""), int | None):
        raise ValueError("something other than agentd answers there")  # noqa: TRY004 (of an answer, not an argument)
    return found


def _ask(places: Places) -> Snapshot | None:
    """The daemon's own snapshot, or None if it does not answer."""
    if places.status is None:
        return None
    try:
        found = _filled(ask_daemon(places.status))
        _try(found)
    except (http.ExchangeError, AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return found


def _try(found: Snapshot) -> None:
    """Make all that is shown of it: what is somebody else's may have other types than ours, and raises."""
    now = found["now"]
    handlers = found["handlers"].items()
    list(troubles(found, runs=True))
    _summary(found | {"running": True})
    [_row(name, one, now) for name, one in handlers]
    [_part(name, part, now) for name, one in handlers for part in one.get("status", ())]
    [_query(one, now) for one in found["queries"]]


def _filled(found: Snapshot) -> Snapshot:
    """With what it lacks, and then with the reason: the files were upgraded, the daemon was not restarted."""
    handlers, queries = found.get("handlers", {}), found.get("queries", [])
    whole = (
        _STATE.keys() <= found.keys()
        and all(_HANDLER.keys() <= one.keys() for one in handlers.values())
        and all(_QUERY.keys() <= one.keys() for one in queries)
    )
    return {
        **_STATE,
        "now": time.time(),
        **found,
        "handlers": {name: _HANDLER | one for name, one in handlers.items()},
        "queries": [{"query": "?"} | _QUERY | one for one in queries],
        "other_version": not whole,
    }


def _remembered(places: Places) -> Snapshot:
    """The same from what is on disk; it says nothing about queries."""
    from agentd.tree.generation import current_number  # noqa: PLC0415 (only without a daemon)

    state: Snapshot = {
        "now": time.time(),
        "generation": current_number(places.tree / "current"),
        "reload_pending": [],
        "backlog": {},
        "handlers": {},
    }
    journal = open_journal(places.state)
    if journal is not None:
        from agentd.journal.entry import RELAY  # noqa: PLC0415 (likewise)
        from agentd.journal.summary import summary  # noqa: PLC0415 (likewise)

        with closing(journal):
            backlog = journal.backlog()
            names = places.handlers or tuple(name for name in backlog if name != RELAY)
            state |= {
                "reload_pending": journal.unproved(),
                "backlog": backlog,
                "handlers": _with_pauses(summary(journal, names), places),
            }
    return state


def _with_pauses(handlers: Snapshot, places: Places) -> Snapshot:
    """With the pauses that the daemon will keep to."""
    from agentd.journal.pauses import EVERY, Pauses  # noqa: PLC0415 (only without a daemon)

    found = Pauses(places.state).every()
    paused = {name: found.get(name) or found.get(EVERY) for name in handlers}
    return {
        name: one | {"paused": {"since": at.since, "until": at.until, "reason": at.reason} if at else None}
        for name, one in handlers.items()
        for at in (paused[name],)
    }


# ------------------------------------------------------------------ for a person


def _print(found: Snapshot, output: Output) -> None:
    now = found["now"]  # of the daemon: the system's clock may have been set since
    for text in found["trouble"]:
        output.line(f"! {text}", "red")
    if not found["trouble"]:
        output.line("All is well.", "green")
    output.line()
    output.pairs(_summary(found))
    output.line()
    handlers = by_urgency(found["handlers"], now)
    output.table(
        ("STATE", "HANDLER", "LIVE", "WAITING", "SINCE", "LAST FAILURE", "NEXT WORK"),
        [_row(name, one, now) for name, one in handlers],
        empty="No handler has done anything yet.",
        prose=("LAST FAILURE",),
    )
    parts = [(name, part) for name, one in handlers for part in one.get("status", ())]
    parts.sort(key=lambda one: not one[1].get("trouble"))
    if parts:
        output.line()
        output.table(
            ("STATE", "HANDLER", "PART", "AGE", "NEXT"), [_part(name, part, now) for name, part in parts]
        )
    if fleet := found.get("fleet"):
        output.line()
        output.table(
            ("STATE", "KEPT NAME", "NEWEST", "HERE", "NOTE"),
            [_kept(name, one) for name, one in sorted(fleet["names"].items())],
            empty="No name is kept on this node.",
            prose=("NOTE",),
        )
    if "queries" in found:
        output.line()
        output.table(
            ("STATE", "QUERY", "LAST CONTACT", "CHANGES", "MISSED", "NOTE"),
            sorted((_query(one, now) for one in found["queries"]), key=lambda row: row[0] == "ok"),
            empty="Nothing is watched.",
            prose=("NOTE",),
        )


def _summary(found: Snapshot) -> dict[str, object]:
    by = (
        f"pid {found['pid']}, version {found['version']}"
        if "pid" in found
        else "from the journal and the tree"
    )
    unproved = ", ".join(map(str, found["reload_pending"]))
    return {
        "daemon": f"{'running' if found['running'] else 'not running'} ({by})",
        "generation": found["generation"] or "none yet",
        "reload": f"pending for generation {unproved}" if unproved else "none pending",
    }


def _row(name: str, one: Snapshot, now: float) -> list[object]:
    failure = one["last_failure"]
    failed = f"{moment(failure['at'])} {failure['outcome']}: {failure['reason']}" if failure else None
    return [
        handler_state(one, now),
        name,
        one["live"],
        one["waiting"],
        _ago(one["waiting_since"], now),
        one_line(failed),
        _ahead(one.get("next_due"), now),
    ]


def _part(name: str, part: Snapshot, now: float) -> list[object]:
    return [
        part_state(part),
        name,
        part["part"],
        _age(part.get("since"), now),
        _ahead(part.get("next"), now),
    ]


def _kept(name: str, one: Snapshot) -> list[object]:
    state, note = name_state(one)
    return [state, name, one["newest"] or None, one["position"] or None, one_line(note)]


def _query(one: Snapshot, now: float) -> list[object]:
    contact = one["last_contact"]
    state, note = query_state(one)
    return [
        state,
        one["query"],
        _ago(contact, now) or "never",
        one["deliveries"],
        one["missed"],
        one_line(note),
    ]


def _age(unix: float | None, now: float) -> str | None:
    return None if unix is None else span(max(0.0, now - unix))


def _ago(unix: float | None, now: float) -> str | None:
    return None if unix is None else f"{_age(unix, now)} ago"


def _ahead(unix: float | None, now: float) -> str | None:
    if unix is None:
        return None
    left = unix - now
    return f"in {span(left)}" if left >= 1 else "now"
