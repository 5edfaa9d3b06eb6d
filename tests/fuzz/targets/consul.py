"""What Consul may answer, from the bytes on the wire to the changes that handlers and the journal get."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from agentd.errors import AgentdError, ConsulError, HandlerError
from agentd.journal.journal import Journal
from agentd.locks.consul_store import ConsulStore
from agentd.locks.mutex import Mutex
from agentd.locks.semaphore import Semaphore
from agentd.testing import HandlerHarness
from agentd.watch.changes import Change, Event, KeyPrefixState, KeyState, ServiceState
from agentd.watch.client import Answer, ConsulClient, EventClock
from agentd.watch.event_ring import EventRing
from agentd.watch.judgement import Inquiry, StateMemory
from agentd.watch.lookup import find_instances
from agentd.watch.options import ConsulOptions
from agentd.watch.parsing import Parsed, parse
from agentd.watch.queries import (
    ChecksQuery,
    EventQuery,
    KeyPrefixQuery,
    KeyQuery,
    NodesQuery,
    ServiceQuery,
    ServicesQuery,
)
from agentd.watch.query import Query
from agentd.watch.transport import Parameters
from handlers.command import standard_input
from handlers.nginx_upstream.handler import NginxUpstream
from tests.fuzz.served import LARGEST, answer, served
from tests.fuzz.target import target

_NEVER = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, and what ends a line
_SESSION = "11111111-2222-3333-4444-555555555555"


@contextmanager
def _consul(*answers: bytes) -> Iterator[ConsulClient]:
    with served(*answers), closing(ConsulClient(ConsulOptions())) as client:
        yield client


def _told(body: bytes, index: int = 7) -> bytes:
    return answer(body[: LARGEST // 2], X_Consul_Index=str(index), X_Consul_KnownLeader="true")


class _Source:
    """The client, but with answers of its own to the questions that come after a first answer."""

    stale = False

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        *,
        read: Callable[[bytes], Parsed] = parse,
    ) -> Answer:
        return self._client.get(path, params, index, wait, read=read)

    def authorized(self, *_: str) -> bool:
        return True

    def event_clock(self) -> EventClock:
        return EventClock(9, "node")

    def close(self) -> None:
        self._client.close()


def _watched(query: Query, data: bytes) -> None:
    """The same answer twice, as a poller takes it: to the first question ever, and to a later one."""
    memory: StateMemory | EventRing = StateMemory()
    if isinstance(query, EventQuery):
        memory = EventRing.restored({"last": "known", "ltime": 5, "clock": 6})
    with _consul(_told(data), _told(data, index=8)) as client:
        source, known = _Source(client), query.known_items()
        for _ in range(2):
            snapshot = query.fetch(source, memory.index, known=known)
            verdict = memory.judge(snapshot, Inquiry(query, source, lambda: None))
            memory = verdict.memory
            if verdict.news:
                _recorded(verdict.news.changes)


def _recorded(changes: object) -> None:
    """Into the journal, out of it again, and to what the handlers ask of a change."""
    assert isinstance(changes, list | tuple)
    journal = _journal()
    try:
        journal.receive([(change, ["fuzz"]) for change in changes], listed=[])
        for entry in journal.pending("fuzz"):
            _used(entry.change)
    finally:
        with journal.database.transaction() as db:
            db.execute("DELETE FROM changes")


def _used(change: Change) -> None:
    line = standard_input(change)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert change.id.isprintable()
    match change:
        case Event():
            assert not any(unicodedata.category(one) in _NEVER for one in change.name)
            _ = change.order, change.payload
        case KeyState():
            _ = change.order, change.value
        case KeyPrefixState():
            _ = change.values
        case ServiceState():
            _served_by(change)


def _served_by(state: ServiceState) -> None:
    """As an upstream in nginx's configuration, in which each line is one that agentd wrote."""
    upstream = HandlerHarness(NginxUpstream, {"upstream": "api"})
    upstream.initial()
    upstream.handle(replace(state))
    for file in upstream.files.values():
        assert file.isascii()
        assert all(byte >= 32 or byte == 10 for byte in file)


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="agentd-fuzz-")


@cache
def _journal() -> Journal:
    return Journal(Path(_directory().name, "journal"))


# ---------------------------------------------------------------- what is watched


@target(ConsulError, HandlerError, structured=True, inputs=("events-odd.json",))
def consul_events(data: bytes) -> None:
    """The event ring."""
    _watched(EventQuery(), data)


@target(ConsulError, HandlerError, structured=True, inputs=("instances-odd.json",))
def consul_service(data: bytes) -> None:
    """The instances of a service, watched and asked for once."""
    _watched(ServiceQuery("api"), data)
    with _consul(_told(data), _told(b'[{"Allow":true}]')) as client:
        find_instances(client, "api")


@target(ConsulError, HandlerError, structured=True)
def consul_key(data: bytes) -> None:
    """A key."""
    _watched(KeyQuery("a/b"), data)


@target(ConsulError, HandlerError, structured=True)
def consul_keyprefix(data: bytes) -> None:
    """The keys below a prefix."""
    _watched(KeyPrefixQuery("a/"), data)


@target(ConsulError, HandlerError, structured=True)
def consul_services(data: bytes) -> None:
    """The catalogue's services."""
    _watched(ServicesQuery(), data)


@target(ConsulError, HandlerError, structured=True)
def consul_nodes(data: bytes) -> None:
    """The catalogue's nodes."""
    _watched(NodesQuery(), data)


@target(ConsulError, HandlerError, structured=True)
def consul_checks(data: bytes) -> None:
    """Health checks."""
    _watched(ChecksQuery(state="any"), data)


# ---------------------------------------------------------------- what is asked


@target(ConsulError)
def consul_answer(data: bytes) -> None:
    """Any bytes as an answer of the agent."""
    with _consul(data) as client:
        client.get("/v1/kv/a", index=3)


@target(structured=True)
def consul_agent(data: bytes) -> None:
    """What the agent says about itself, rights, an event that was fired, and the leader."""
    for ask in (
        ConsulClient.self_info,
        ConsulClient.event_clock,
        ConsulClient.leader,
        lambda client: client.fire("name", b"payload"),
        lambda client: client.authorized("key", "read", "a"),
    ):
        with _consul(_told(data)) as client, _refusing(ConsulError):
            ask(client)


@target(structured=True)
def consul_locks(data: bytes) -> None:
    """Keys, sessions and transactions of a lock, each a value of anyone who may write there."""
    for ask in (
        lambda store: Mutex(store, "lock").attempt(_SESSION, 0, 0.0),
        lambda store: Mutex(store, "lock").tidy(),
        lambda store: Semaphore(store, "lock", 2).attempt(_SESSION, 0, 0.0),
        lambda store: Semaphore(store, "lock", 2).held(_SESSION, 0, 0.0),
        lambda store: store.create_session("name", 15.0, "release"),
        lambda store: store.node_of(_SESSION),
        lambda store: store.transact([]),
    ):
        with _consul(_told(data), _told(b"true")) as client, _refusing(AgentdError):
            ask(ConsulStore(client))


@contextmanager
def _refusing(*refusals: type[Exception]) -> Iterator[None]:
    """One of several questions to one answer: its refusal does not keep the others from being asked."""
    try:
        yield
    except refusals:
        return
