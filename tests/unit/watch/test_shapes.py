"""Which items of an answer are used: what stands beside an odd one is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConsulUnavailable, PermanentError
from agentd.watch.changes import Event, ServiceState
from agentd.watch.queries import (
    ChecksQuery,
    EventQuery,
    KeyPrefixQuery,
    KeyQuery,
    NodesQuery,
    ServiceQuery,
    ServicesQuery,
)
from agentd.watch.query import Query, Snapshot
from tests.unit.watch.sources import ScriptedSource, answer, event, identity

_INPUTS = Path(__file__).parents[2] / "inputs"
_NODE = {"Node": "n", "Address": "192.0.2.1"}
_INSTANCE = {"Node": _NODE, "Service": {"ID": "a", "Port": 80}, "Checks": [{"Status": "passing"}]}
_PAIR = {"Key": "a", "Value": "eA==", "Flags": 0, "ModifyIndex": 7}
_CHECK = {"Node": "n", "CheckID": "c", "Status": "passing"}


def fetch(query: Query, raw: Any) -> Snapshot:  # noqa: ANN401 - any JSON
    """What the query makes of an answer."""
    return query.fetch(ScriptedSource([answer(raw)]))


def reasons(snapshot: Snapshot) -> list[str]:
    """Why items were left out."""
    return [one.reason for one in snapshot.odd]


def test_the_odd_events_are_left_out() -> None:
    """Those without a name, a time or an ID that can be used; the others are handed on, in order."""
    snapshot = fetch(EventQuery(), json.loads((_INPUTS / "events-odd.json").read_text()))

    assert [change.id[0] for change in snapshot.changes] == ["1", "5", "6"]
    assert reasons(snapshot) == ["Name", "LTime", "ID"]


def test_a_payload_that_is_not_base64_is_refused() -> None:
    """It is not taken for an empty one."""
    with pytest.raises(PermanentError, match="not base64"):
        _ = Event("event", event(1) | {"Payload": "***"}).payload


@pytest.mark.parametrize(
    "field,value",
    [
        ("ID", None), ("ID", 5), ("ID", "no-uuid"), ("ID", identity(2) + "\n"), ("ID", "a" * 10_000_000),
        ("ID", "\ud800" + identity(2)[1:]), ("Name", ""), ("Name", None), ("Name", "a\tb"), ("Name", ["a"]),
        ("Name", "a\u2028"), ("Name", "\x9b31m"), ("Name", "n" * 2_000), ("LTime", "7"), ("LTime", 7.0),
        ("LTime", True), ("LTime", -1), ("LTime", 10**400), ("LTime", None), ("Payload", 7),
        ("Payload", ["eA=="]), ("Payload", "eA==" * 10_000),
    ],
)  # fmt: skip
def test_an_odd_event_is_left_out(field: str, value: object) -> None:
    """Whatever is odd about it."""
    snapshot = fetch(EventQuery(), [event(1), event(2) | {field: value}, event(3)])

    assert [change.id for change in snapshot.changes] == [identity(1), identity(3)]
    assert reasons(snapshot) == [field]


def test_of_two_events_with_one_id_the_first_counts() -> None:
    """The other could be somebody else's."""
    snapshot = fetch(EventQuery(), [event(1), event(1, "other")])

    assert [change.raw["Name"] for change in snapshot.changes] == ["deploy"]
    assert reasons(snapshot) == ["ID"]


@pytest.mark.parametrize(
    "query,good,odd,reason",
    [
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Node": {"Node": "n"}}, "Address"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Node": None}, "Node"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Node": {"Node": 7}}, "Node.Node"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": []}, "Service"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"ID": "a\n"}}, "Service.ID"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Address": 7}}, "Service.Address"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Port": "80"}}, "Service.Port"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Port": 70000}}, "Service.Port"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Port": -1}}, "Service.Port"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Tags": [7]}}, "Service.Tags"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Meta": {"a": 7}}}, "Service.Meta"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Weights": [1]}}, "Service.Weights"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Service": {"Ports": [1]}}, "Service.Ports"),
        (ServiceQuery("w"), _INSTANCE, {**_INSTANCE, "Checks": [{"Status": None}]}, "Checks"),
        (ServiceQuery("w"), _INSTANCE, "a", "not an object"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "Key": 7}, "Key"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "Value": "***"}, "Value"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "Value": ["eA=="]}, "Value"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "ModifyIndex": "7"}, "ModifyIndex"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "ModifyIndex": 2**64}, "ModifyIndex"),
        (KeyPrefixQuery("a"), _PAIR, {**_PAIR, "Flags": -1}, "Flags"),
        (NodesQuery(), _NODE, {"Node": None}, "Node"),
        (NodesQuery(), _NODE, {"Node": "n", "Address": {}}, "Address"),
        (ChecksQuery(), _CHECK, {**_CHECK, "CheckID": 7}, "CheckID"),
        (ChecksQuery(), _CHECK, {**_CHECK, "Status": []}, "Status"),
        (ChecksQuery(), _CHECK, {**_CHECK, "Definition": ["10s"]}, "Definition"),
    ],
)
def test_an_odd_item_of_a_state_is_left_out(query: Query, good: object, odd: object, reason: str) -> None:
    """The others make the state, and handlers can rely on their types."""
    snapshot = fetch(query, [odd, good])

    (change,) = snapshot.changes
    assert len(change.raw) == 1
    assert reasons(snapshot) == [reason]
    assert fetch(query, [good]).changes[0].digest == change.digest


def test_an_odd_service_is_left_out() -> None:
    """Of the catalogue, which is one object."""
    snapshot = fetch(ServicesQuery(), {"web": ["b", "a"], "api": "a", "a\n": [], "db": [1]})

    assert snapshot.changes[0].raw == {"web": ["a", "b"]}
    assert reasons(snapshot) == ["tags", "name", "tags"]


@pytest.mark.parametrize(
    "query,raw",
    [
        (KeyQuery("k"), [{"Key": "k", "Value": 7}]),
        (KeyPrefixQuery("k"), [{"Key": 7}]),
        (ServiceQuery("w"), [{}, {"Node": 1}]),
        (ServicesQuery(), {"web": 7}),
    ],
)
def test_a_state_of_which_nothing_can_be_used_is_no_state(query: Query, raw: object) -> None:
    """It must not be taken for an empty one: all servers would go."""
    with pytest.raises(ConsulUnavailable, match="nothing in the answer"):
        fetch(query, raw)


def test_only_events_may_all_be_odd() -> None:
    """None of them is missing afterwards."""
    assert [*fetch(EventQuery(), [{"ID": 7}]).changes] == []


def test_the_instances_with_an_address_are_handed_on() -> None:
    """Whether it may be a server's is up to the handler."""
    snapshot = fetch(ServiceQuery("api"), json.loads((_INPUTS / "instances-odd.json").read_text()))

    state = snapshot.changes[0]
    assert isinstance(state, ServiceState)
    assert [one.id for one in state.instances] != []
    assert "f" not in {one.id for one in state.instances}
    assert [(one.reason, one.name) for one in snapshot.odd] == [("Address", "f")]
