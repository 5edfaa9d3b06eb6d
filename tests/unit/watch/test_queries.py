"""What can be watched: identity, question, and the form of the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ConsulUnavailable
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
from tests.unit.watch.sources import ScriptedSource, answer, event, identity

_NAMES = st.text(alphabet="ab/:?&=% é", min_size=1, max_size=4).filter(lambda name: not name.startswith("/"))
_INSTANCE = {"Node": {"Node": "n", "Address": "192.0.2.1"}, "Service": {}}
_MAYBE = st.none() | _NAMES
_QUERIES = st.one_of(
    st.just(EventQuery()),
    st.just(ServicesQuery()),
    st.just(NodesQuery()),
    st.builds(
        ServiceQuery,
        _NAMES,
        tag=_MAYBE,
        passing=st.booleans(),
        near=_MAYBE,
        filter=_MAYBE,
        stale=st.booleans(),
    ),
    st.builds(KeyQuery, _NAMES),
    st.builds(KeyPrefixQuery, st.just("") | _NAMES),
    st.builds(ChecksQuery, service=_MAYBE),
    st.builds(ChecksQuery, state=st.sampled_from([None, "any", "passing", "warning", "critical"])),
)


@given(_QUERIES, _QUERIES)
def test_the_printed_form_is_the_identity(one: Query, other: Query) -> None:
    """Queries print alike if, and only if, they are equal."""
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    "query,printed,path,params",
    [
        (EventQuery(), "event", "/v1/event/list", ()),
        (ServiceQuery("web"), "service:web", "/v1/health/service/web", (("passing", "1"), ("stale", ""))),
        (
            ServiceQuery("web", tag="prod", passing=False, near="_agent", filter='Node.Meta.a == "b"'),
            "service:web?tag=prod&passing=false&near=_agent&filter=Node.Meta.a+%3D%3D+%22b%22",
            "/v1/health/service/web",
            (("tag", "prod"), ("near", "_agent"), ("filter", 'Node.Meta.a == "b"'), ("stale", "")),
        ),
        (
            ServiceQuery("web", stale=False),
            "service:web?stale=false",
            "/v1/health/service/web",
            (("passing", "1"),),
        ),
        (KeyQuery("a/b"), "key:a/b", "/v1/kv/a/b", ()),
        (KeyPrefixQuery("a/"), "keyprefix:a/", "/v1/kv/a/", (("recurse", ""),)),
        (ServicesQuery(), "services", "/v1/catalog/services", (("stale", ""),)),
        (NodesQuery(), "nodes", "/v1/catalog/nodes", (("stale", ""),)),
        (ChecksQuery(), "checks", "/v1/health/state/any", (("stale", ""),)),
        (ChecksQuery(service="web"), "checks?service=web", "/v1/health/checks/web", (("stale", ""),)),
        (
            ChecksQuery(state="critical"),
            "checks?state=critical",
            "/v1/health/state/critical",
            (("stale", ""),),
        ),
    ],
)
def test_a_query_asks_its_endpoint(
    query: Query, printed: str, path: str, params: tuple[tuple[str, str], ...]
) -> None:
    """Name, path and parameters, with the index of the last answer."""
    source = ScriptedSource([answer({} if query.shape is dict else [])])
    query.fetch(source, 7)
    assert str(query) == printed
    assert source.asked == [(path, params, 7)]


@pytest.mark.parametrize(
    "query,raw,handed",
    [
        (ServiceQuery("web"), [_INSTANCE], [_INSTANCE]),
        (ServiceQuery("web"), [], []),
        (ServiceQuery("web"), None, []),
        (KeyQuery("a"), [{"Key": "a", "Value": "eA=="}], {"Key": "a", "Value": "eA==", "Session": ""}),
        (KeyQuery("a"), [{"Key": "a", "Session": "s"}], {"Key": "a", "Session": "s"}),
        (KeyQuery("a"), None, None),
        (KeyPrefixQuery("a"), [{"Key": "ab"}], [{"Key": "ab", "Session": ""}]),
        (KeyPrefixQuery("a"), None, None),
        (ServicesQuery(), {"consul": []}, {"consul": []}),
        (ServicesQuery(), None, {}),
        (NodesQuery(), [{"Node": "n"}], [{"Node": "n"}]),
        (ChecksQuery(), [{"CheckID": "c"}], [{"CheckID": "c"}]),
    ],
)
def test_a_state_is_one_change_in_the_form_of_consul_watch(query: Query, raw: Any, handed: Any) -> None:  # noqa: ANN401 - any JSON
    """Handlers that were written for `consul watch` find what they know."""
    snapshot = query.fetch(ScriptedSource([answer(raw, 5)]))
    (change,) = snapshot.changes
    assert (change.raw, change.query, change.index, change.kind) == (handed, str(query), 5, query.kind.kind)
    assert snapshot.empty == (not handed)


def test_events_are_one_change_each() -> None:
    """In the order of the ring."""
    snapshot = EventQuery().fetch(ScriptedSource([answer([event(1), event(2)])]))
    assert [change.id for change in snapshot.changes] == [identity(1), identity(2)]


@pytest.mark.parametrize(
    "query,raw",
    [
        (NodesQuery(), {"Node": "n"}),
        (ServicesQuery(), []),
        (EventQuery(), {"ID": "id"}),
        (NodesQuery(), ["n"]),
        (KeyQuery("k"), [{"Key": "k", "Value": "***"}]),
    ],
)
def test_an_answer_of_another_form_is_no_answer(query: Query, raw: Any) -> None:  # noqa: ANN401 - any JSON
    """A handler never sees a shape that its type does not promise."""
    with pytest.raises(ConsulUnavailable, match="is this a Consul agent"):
        query.fetch(ScriptedSource([answer(raw)]))


def test_a_fresh_answer_is_the_leaders() -> None:
    """Whatever the options allow."""
    source = ScriptedSource([answer([])])
    NodesQuery().fetch(source, fresh=True)
    assert source.asked == [("/v1/catalog/nodes", (), 0)]


def test_every_query_needs_a_right() -> None:
    """The check at the start asks for each."""
    queries = [
        EventQuery(),
        ServiceQuery("w"),
        KeyQuery("k"),
        KeyPrefixQuery(""),
        ServicesQuery(),
        NodesQuery(),
    ]
    assert [query.needs for query in [*queries, ChecksQuery(service="w"), ChecksQuery()]] == [
        (("event", "read", ""),),
        (("service", "read", "w"), ("node", "read", "")),
        (("key", "read", "k"),),
        (("key", "read", ""),),
        (("service", "read", ""),),
        (("node", "read", ""),),
        (("service", "read", "w"), ("node", "read", "")),
        (("service", "read", ""), ("node", "read", "")),
    ]


def test_names_that_consul_would_misread_are_refused() -> None:
    """A leading slash makes Consul redirect, and an empty key means all of them."""
    for make in (lambda: KeyQuery(""), lambda: KeyQuery("/a"), lambda: KeyPrefixQuery("/a")):
        with pytest.raises(ValueError, match="slash"):
            make()
    with pytest.raises(ValueError, match="not both"):
        ChecksQuery(service="a", state="any")


def test_events_are_made_when_they_are_asked_for() -> None:
    """The ring is a sequence: its length, one of it, a part of it, all of it."""
    snapshot = EventQuery().fetch(ScriptedSource([answer([event(number) for number in range(4)])]))

    assert len(snapshot.changes) == 4
    assert snapshot.changes[1].id == event(1)["ID"]
    assert snapshot.changes[-1].query == "event"
    assert [change.id for change in snapshot.changes[1:3]] == [event(1)["ID"], event(2)["ID"]]
    assert list(snapshot.changes) == [*snapshot.changes[:2], *snapshot.changes[2:]]
