"""What the pages show in pictures and tests: lb1 of a fleet of six nodes, one behind and one drifted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.census import Heads
from agentd.fleet.head import Head
from agentd.fleet.newest import Newest
from agentd.fleet.reading import Reading
from agentd.fleet.standing import Member, standing

TICKETS: Final = "tls-session-ticket-refresh"
BLACKLIST: Final = "ip-blacklist"
_NUMBERS: Final = {TICKETS: 41, BLACKLIST: 1207}
_AGES: Final = {TICKETS: 4 * 3600.0, BLACKLIST: 340.0}
State = dict[str, Any]


def reading(now: float) -> Reading:
    """The fleet, read at that unix time."""
    names = {name: Name(live=number, tried=Tried(number, "applied")) for name, number in _NUMBERS.items()}
    behind = Name(live=1206, tried=Tried(1206, "applied"), waits="the handler blacklist is busy")
    drifted = "kernel set agentd4: 2 addresses are missing"
    members = [
        _member("lb1", now - 320, names, 58),
        _member("lb2", now - 322, names, 57),
        _member("lb3", now - 41, {**names, BLACKLIST: behind}, 51),
        _member("lb4", now - 319, names, 58),
        _member("lb5", now - 12, names, 60, drift=drifted),
        _member("lb6", now - 325, names, 55),
    ]
    newest = {
        TICKETS: Newest(TICKETS, 41, now - _AGES[TICKETS], None, "security", "publish"),
        BLACKLIST: Newest(BLACKLIST, 1207, now - _AGES[BLACKLIST], None, "lb2", "event"),
    }
    heads = Heads({TICKETS: Head("latest", 41, 41, 1), BLACKLIST: Head("all", 1207, 1207, 1)}, {}, {})
    return Reading("edge", now, members, heads, newest, standing(members, newest, now), ())


def _member(node: str, written: float, names: Mapping[str, Name], generation: int, drift: str = "") -> Member:
    handlers = {
        "blacklist": HandlerReport((BLACKLIST,), drift=drift),
        "ticket-keys": HandlerReport((TICKETS,)),
    }
    document = Acknowledgement("0.2.0", node, "boot", written, generation, names, handlers)
    return Member(node, document, node_id=node)


def state(now: float) -> State:
    """What /status of lb1 answers at that unix time."""
    failure = {
        "change": "3f2a", "outcome": "refused", "recovered": True, "at": now - 5400,
        "reason": "a key has 48 or 80 bytes, not 9",
    }  # fmt: skip
    keys = [
        {"part": "encrypting key", "since": now - 4 * 3600 - 60},
        {"part": "next key", "since": now - 600, "next": now + 3 * 3600},
        {"part": "key 3", "since": now - 12 * 3600},
    ]
    feeds = [{"part": "feed spamhaus", "since": now - 1260, "next": now + 540}]
    return {
        "version": "0.2.0",
        "pid": 812,
        "now": now,
        "generation": 58,
        "reload_pending": [],
        "not_ready": [],
        "handlers": {
            "ticket-keys": _handler(58, status=keys, last_failure=failure, next_due=now + 3 * 3600),
            "blacklist": _handler(57, status=feeds, next_due=now + 540),
            "nginx-reload": _handler(58),
        },
        "queries": [_query("event", now - 2, 214), _query("keyprefix:agentd/edge/names/", now - 2, 38)],
        "fleet": {"name": "edge", "node": "lb1", "troubles": [], "names": _kept()},
    }


def troubled(now: float) -> State:
    """The same of a node on which something is wrong."""
    made = state(now)
    stuck = "Consul key blacklist/office: line 3 is no address"
    made["handlers"]["blacklist"] |= {
        "drift": [{"part": "kernel set agentd4", "reason": "2 addresses are missing", "since": now - 95}],
        "last_failure": {
            "change": "9c1d", "outcome": "refused", "recovered": False, "at": now - 130, "reason": stuck,
        },
    }  # fmt: skip
    made["handlers"]["nginx-reload"] |= {
        "waiting": 1, "waiting_since": now - 90, "waiting_reason": "nginx -t fails: unknown directive",
    }  # fmt: skip
    made["reload_pending"] = [58]
    return made


def recent(now: float) -> list[State]:
    """The newest rows of its history."""
    wrong = "a key has 48 or 80 bytes, not 9"
    return [
        _row(now - 340, "blacklist", BLACKLIST, id="7d21c0fe-1", outcome="applied", generation=57),
        _row(now - 338, "nginx-reload", id="reload", kind="notification", outcome="applied", generation=57),
        _row(now - 600, "ticket-keys", TICKETS, id=f"{TICKETS}-41", outcome="applied", generation=58),
        _row(now - 5400, "ticket-keys", TICKETS, id="3f2a90b1-2", outcome="refused", reason=wrong),
        _row(now - 7300, "blacklist", BLACKLIST, id="a02b77c3-9", outcome="unchanged"),
    ]  # fmt: skip


def _handler(live: int, **more: Any) -> State:  # noqa: ANN401 (any JSON)
    empty: State = {
        "waiting": 0,
        "waiting_since": None,
        "waiting_reason": "",
        "last_failure": None,
        "drift": [],
    }
    return {"live": live, **empty, "ready": True, "paused": None, "next_due": None, "status": [], **more}


def _query(query: str, contact: float, deliveries: int) -> State:
    quiet = {"error": None, "limited": None, "held": None, "alarming": False, "odd": 0, "rest": 0.0}
    return {"query": query, "last_contact": contact, "deliveries": deliveries, "missed": 0, **quiet}


def _kept() -> State:
    return {
        name: {"newest": number, "position": number, "waits": "", "incomplete_since": None}
        for name, number in _NUMBERS.items()
    }


def _row(at: float, handler: str, name: str | None = None, **more: object) -> State:
    plain = {"kind": "event", "query": "event", "reason": "", "generation": None}
    return {"handler": handler, "name": name, "received": at, "finished": at, **plain, **more}
