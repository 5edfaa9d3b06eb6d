"""What is wrong with a node, from the state at /status: for `agentd status` and the page.

Owns the sentences, their order, and the state of each part in one word. Pure, and quick to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentd.times import moment, span

GOOD: Final = ("ok", "applied", "yes", "current", "running", "proved")
BAD: Final = (
    *("FAIL", "failed", "refused", "broken", "no", "not ready"),
    *("not served", "drifted", "disagreeing", "silent", "name taken", "unreadable", "log lost"),
)
DOUBTFUL: Final = (
    *("warn", "expired", "waiting", "awaiting proof"),
    *("behind", "stopped", "paused", "incomplete", "provisional", "no agentd", "held", "limited"),
)
"""States, in a word, that are good, bad, and neither."""

_NAMED: Final = 3  # queries that one line names
_LONG: Final = 60.0  # seconds that a change may wait before that is worth a line


def troubles(state: Mapping[str, Any], *, runs: bool) -> Iterator[str]:
    """What is wrong, one sentence each, the worst first.

    Args:
        state: what the daemon answers at /status, or the same from its files.
        runs: whether a daemon runs.
    """
    if not runs:
        yield "the daemon is not running: start it with `systemctl start agentd` (or `agentd run`)"
    elif "queries" not in state:
        yield "the daemon is running, but does not answer on its status address (status.address)"
    if state.get("other_version"):
        yield "the running daemon has a different version from this command: restart it"
    yield from state.get("not_ready", ())
    if state.get("nginx_missing"):
        yield state["nginx_missing"]
    for problem in state.get("config_refused", ()):
        yield f"the configuration was refused at the last reload, and the earlier one is in use: {problem}"
    if state.get("files_refused"):
        yield state["files_refused"]
    for name in state.get("stuck", ()):
        yield f"{name} is stuck: it has shown no sign of life for too long"
    yield from _unheard(state.get("queries", ()))
    yield from (f"fleet: {text}" for text in state.get("fleet", {}).get("troubles", ()))
    handlers = by_urgency(state["handlers"], state["now"])
    yield from (f"{name} is {_pause(one)}" for name, one in handlers if one.get("paused"))
    yield from (f"{name}: {text}" for name, one in handlers for text in _wrong(one, state["now"]))
    if (
        state["reload_pending"]
        and state["handlers"]
        and not any(one["waiting"] for one in state["handlers"].values())
    ):
        yield f"nginx has not been proved to run generation {state['generation']}, and no reload is pending"


def _unheard(queries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong between us and Consul; once, where many queries meet with the same."""
    failing: dict[str, list[str]] = {}
    for query in queries:
        if query.get("error"):  # Consul's trouble, or that of our own disk
            failing.setdefault(query["error"], []).append(query["query"])
    for error, names in failing.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{'query' if len(names) == 1 else 'queries'} {', '.join(names[:_NAMED])}{more}: {error}"
    for query in queries:
        if query.get("error"):
            continue
        if query.get("limited"):
            yield f"query {query['query']} is limited: {query['limited']}"
        elif query.get("alarming"):
            yield f"query {query['query']}: {query['held']}"


def _pause(handler: Mapping[str, Any]) -> str:
    """Since when and why a handler takes nothing new, and what waits meanwhile."""
    told = handler["paused"]
    until = f" until {moment(told['until'])}" if told["until"] else ""
    why = f": {told['reason']}" if told["reason"] else ""
    waiting = handler["waiting"]
    many = "" if not waiting else " (1 change waits)" if waiting == 1 else f" ({waiting} changes wait)"
    return f"paused since {moment(told['since'])}{until}{why}{many}; to go on: `agentd resume`"


def _wrong(handler: Mapping[str, Any], now: float) -> Iterator[str]:
    """What is wrong with one handler."""
    if _is_stuck(handler, now) and not handler.get("paused"):
        since, reason = (
            moment(handler["waiting_since"]),
            handler.get("waiting_reason", "").removeprefix("waits: "),
        )
        changes = "1 change has" if handler["waiting"] == 1 else f"{handler['waiting']} changes have"
        yield f"{changes} been waiting since {since}{f': {reason}' if reason else ''}"
    failure = handler["last_failure"]
    parts = [f"{one['part']}: {one['trouble']}" for one in handler.get("status", ()) if one.get("trouble")]
    if failure and not failure.get("recovered") and not _is_told(failure["reason"], parts):
        yield f"the last change was {failure['outcome']} at {moment(failure['at'])}: {failure['reason']}"
    for one in handler.get("drift", ()):
        yield f"not in effect since {moment(one['since'])}: {one['part']}: {one['reason']}"
    for one in () if handler.get("paused") else handler.get("undone", ()):
        yield (
            f"{one['query']} was rolled back, and what Consul has is not in force:"
            f" `agentd replay {one['change']}` applies it again"
        )
    if handler.get("timer_trouble"):
        yield f"its timed work fails, and is tried again: {handler['timer_trouble']}"
    yield from parts


def _is_told(reason: str, parts: Sequence[str]) -> bool:
    """Whether a failure is only that of parts, such as feeds, which are listed one by one anyway."""
    rest = reason
    for part in parts:
        rest = rest.replace(part, "")
    return rest != reason and not rest.strip("; ")


def _is_stuck(handler: Mapping[str, Any], now: float) -> bool:
    """Whether what is waiting is more than the work in progress."""
    return bool(handler["waiting"]) and bool(
        handler.get("waiting_reason") or now - handler["waiting_since"] > _LONG
    )


def by_urgency(handlers: Mapping[str, Mapping[str, Any]], now: float) -> list[tuple[str, Any]]:
    """The handlers with which something is wrong, then those that failed, newest first, then the rest."""

    def urgency(named: tuple[str, Mapping[str, Any]]) -> tuple[bool, float, str]:
        name, one = named
        failure = one["last_failure"]
        return handler_state(one, now) == "ok", -failure["at"] if failure else 0.0, name

    return sorted(handlers.items(), key=urgency)


# ------------------------------------------------------------------ in a word


def handler_state(one: Mapping[str, Any], now: float) -> str:
    """The state of a handler in a word."""
    if one.get("ready") is False:
        return "not ready"
    if one.get("paused"):
        return "paused"
    if any(_wrong(one, now)):
        return "waiting" if _is_stuck(one, now) else "failed"
    return "ok"


def part_state(part: Mapping[str, Any]) -> str:
    """The state of a part of a handler, such as a feed, in a word."""
    return "failed" if part.get("trouble") else "ok"


def name_state(one: Mapping[str, Any]) -> tuple[str, str]:
    """The state of a kept name in a word, and what to say of it."""
    since = one["incomplete_since"]
    state = "waiting" if one["waits"] else "ok" if since is None else "incomplete"
    return state, one["waits"] or ("" if since is None else f"incomplete since message {since}")


def query_state(one: Mapping[str, Any]) -> tuple[str, str]:
    """The state of a query in a word, and what to say of it."""
    state = "failed" if one["error"] else "limited" if one.get("limited") else ""
    note = one["error"] or one.get("limited") or one["held"] or _odd(one)
    return state or ("held" if one.get("alarming") else "ok"), note


def _odd(query: Mapping[str, Any]) -> str:
    number, rest = query.get("odd", 0), query.get("rest", 0.0)
    if not number:
        return ""
    seldom = f"; asked every {span(rest)}" if rest else ""
    return f"{number} {'item' if number == 1 else 'items'} cannot be used, see the log{seldom}"
