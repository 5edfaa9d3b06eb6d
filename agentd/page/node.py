"""The page `/`: is this node all right, what do its handlers do, and what became of the last changes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentd.page.html import (
    HTML,
    Content,
    age,
    ahead,
    badge,
    brief,
    element,
    facts,
    local,
    section,
    table,
    told,
    verdict,
)
from agentd.trouble import handler_state, name_state, part_state, query_state, troubles

_SHORT_ID: Final = 8  # characters of an event's ID
_STILL: Final = "waiting"
State = Mapping[str, Any]


def heading(state: State, host: str) -> str:
    """The node's name: in its fleet, or of the machine."""
    return str((state.get("fleet") or {}).get("node") or host)


def content(state: State, recent: Sequence[State], host: str) -> Iterator[HTML]:
    """The main part.

    Args:
        state: what /status answers.
        recent: the newest rows of the journal's history.
        host: the machine's name.
    """
    now = state["now"]
    wrong = list(troubles(state, runs=True))
    yield element("h1", told(heading(state, host)))
    yield element("p", "As of ", element("time", local(now)), class_="as-of")
    attention = _many(len(wrong), "thing needs attention", "things need attention")
    yield verdict("bad", attention, wrong) if wrong else verdict("good", "All is well")
    yield facts(_facts(state))
    yield section("handlers", "Handlers", _handlers(state, now), _parts(state, now))
    yield section("outcomes", "Last changes", _outcomes(recent, now))
    if fleet := state.get("fleet"):
        yield section("names", "Kept names", _names(fleet))
    yield section("queries", "Watched in Consul", _queries(state, now))


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _facts(state: State) -> Iterator[tuple[str, Content]]:
    unproved = ", ".join(map(str, state["reload_pending"]))
    waiting = sum(one["waiting"] for one in state["handlers"].values())
    yield "Generation", state["generation"] or "none yet"
    yield "Reload", f"pending for {unproved}" if unproved else "none pending"
    yield "Waiting", _many(waiting, "change", "changes")
    contacts = [one["last_contact"] for one in state["queries"] if one["last_contact"] is not None]
    yield "Consul answered", age(max(contacts), state["now"]) if contacts else "not heard of yet"
    yield "agentd", f"{state['version']}, pid {state['pid']}"


def _handlers(state: State, now: float) -> HTML:
    rows = [
        (
            told(name),
            badge(handler_state(one, now)),
            one["live"],
            _waiting(one, now),
            ahead(one.get("next_due"), now),
            _failure(one["last_failure"], now),
        )
        for name, one in sorted(state["handlers"].items())
    ]
    columns = ("Handler", "State", "Live in", "Waiting", "Next work", "Last failure")
    caption = "Each configured handler; live in: its newest generation that is proved"
    return table(caption, columns, rows, "None is running yet.")


def _waiting(one: State, now: float) -> str | None:
    if not one["waiting"]:
        return None
    return f"{one['waiting']}, for {brief(max(0.0, now - one['waiting_since']))}"


def _failure(failure: State | None, now: float) -> Content:
    if failure is None:
        return None
    after = ", made up for since" if failure.get("recovered") else ""
    said = f": {failure['outcome']}{after}: "
    return element("span", age(failure["at"], now), said, told(failure["reason"]))


def _parts(state: State, now: float) -> HTML | None:
    rows = [
        (
            told(part["part"]),
            told(name),
            badge(part_state(part)),
            None if part.get("since") is None else age(part["since"], now),
            ahead(part.get("next"), now),
        )
        for name, one in sorted(state["handlers"].items())
        for part in one.get("status", ())
    ]
    caption = "Their parts, such as the keys of a ring, feeds, or addresses"
    return table(caption, ("Part", "Handler", "State", "Since", "Next"), rows, "") if rows else None


def _outcomes(recent: Sequence[State], now: float) -> HTML:
    rows = [
        (
            told(_what(one)),
            badge(one["outcome"] or _STILL),
            told(one["handler"]),
            age(one["finished"] or one["received"], now),
            one["generation"],
            told(one["reason"]) if one["reason"] else None,
        )
        for one in recent
    ]
    columns = ("Change", "Outcome", "Handler", "When", "Generation", "Reason")
    return table(f"The {len(rows)} newest, newest first", columns, rows, "No change has arrived yet.")


def _what(row: State) -> str:
    if row["kind"] == "event":
        return f"{row['name']} {str(row['id']).removeprefix(row['name'] + '-')[:_SHORT_ID]}"
    return str(row["id"] if row["kind"] in ("notification", "timer") else row["query"])


def _names(fleet: State) -> HTML:
    rows: list[Sequence[Content]] = []
    for name, one in sorted(fleet["names"].items()):
        word, note = name_state(one)
        rows.append(
            (told(name), badge(word), one["newest"] or None, one["position"] or None, note and told(note))
        )
    caption = f"Messages that the fleet {fleet['name']} keeps"
    columns = ("Name", "State", "Newest", "Read here", "Note")
    return table(caption, columns, rows, "No name is kept on this node.")


def _queries(state: State, now: float) -> HTML:
    rows: list[Sequence[Content]] = []
    for one in state["queries"]:
        word, note = query_state(one)
        contact = age(one["last_contact"], now) or "never"
        counts = (one["deliveries"], one["missed"])
        rows.append((told(one["query"]), badge(word), contact, *counts, note and told(note)))
    columns = ("Query", "State", "Last contact", "Changes", "Missed", "Note")
    return table("Each query, and when Consul last answered it", columns, rows, "Nothing is watched.")
