"""Nodes that Consul does not know any more, on a real one: their documents go after a week of daily looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from agentd.cli import main
from agentd.errors import ConsulUnavailable
from agentd.fleet.absence import parse_absences
from agentd.fleet.gone import DAYS, Gone
from agentd.fleet.kv import ConsulKV
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.acknowledgers import Acknowledgers, acknowledgement, acknowledgers
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port

DAY = 86400.0
START = 1_800_000_000.0
LOST = 4
"""The number of the node that Consul does not know."""
Look = Callable[[float], list[str]]


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[Acknowledgers]:
    """Four nodes, and the document of a fifth."""
    with acknowledgers(consul, f"gone-{free_port()}", LOST) as made:
        made.acknowledge(LOST, 20)
        yield made


@pytest.fixture
def look(fleet: Acknowledgers) -> Iterator[Look]:
    """Look so many days after the start; returns who was forgotten."""
    with closing(ConsulClient(ConsulOptions(address=fleet.consul.url))) as client:
        yield lambda days: list(Gone(client, fleet.keys).remove(START + days * DAY).forgotten)


def is_there(fleet: Acknowledgers, number: int = LOST) -> bool:
    """Whether the node has a document."""
    return fleet.consul.kv_get(fleet.keys.node(fleet.node(number))) is not None


def days_missing(fleet: Acknowledgers) -> dict[str, int]:
    """What is recorded."""
    raw = fleet.consul.kv_get(fleet.keys.absences)
    return {node: one.days for node, one in parse_absences(raw or b"").nodes.items()}


def test_a_node_is_forgotten_after_a_week(fleet: Acknowledgers, look: Look) -> None:
    """Not a day earlier; the others stay."""
    before = [look(day) for day in range(DAYS)]
    assert before == [[]] * DAYS
    assert look(DAYS) == [fleet.node(LOST)]
    assert [is_there(fleet, number) for number in range(LOST + 1)] == [True] * LOST + [False]
    assert look(DAYS + 1) == []
    assert days_missing(fleet) == {}


@pytest.mark.parametrize("hours", [0, 1, 23])
def test_a_day_counts_once(fleet: Acknowledgers, look: Look, hours: float) -> None:
    """However often somebody looks."""
    look(0)
    for _ in range(DAYS + 2):
        look(hours / 24)
    assert days_missing(fleet) == {fleet.node(LOST): 0}


@pytest.mark.parametrize("jump", [-30, 30])
def test_a_wrong_clock_adds_one_day(fleet: Acknowledgers, look: Look, jump: float) -> None:
    """And the next right one another."""
    look(0)
    look(jump)
    look(0.1)
    assert days_missing(fleet) == {fleet.node(LOST): 2}
    assert is_there(fleet)


@pytest.mark.parametrize("back", ["acknowledges", "catalogued", "agent"])
def test_a_node_that_comes_back_starts_anew(fleet: Acknowledgers, look: Look, back: str) -> None:
    """It wrote its document, or Consul knows it again: by its name, or by its agent under another one."""
    for day in range(DAYS):
        look(day)
    if back == "acknowledges":
        fleet.acknowledge(LOST, 20)
    elif back == "catalogued":
        fleet.join(LOST)
    else:
        fleet.consul.put(
            "/v1/catalog/register",
            {"Node": "other", "ID": acknowledgement(LOST, 20).node_id, "Address": "127.0.0.1"},
        )
    try:
        assert look(DAYS) == []
        assert days_missing(fleet).get(fleet.node(LOST), 0) == 0
        assert is_there(fleet)
    finally:
        fleet.consul.put("/v1/catalog/deregister", {"Node": "other"})


def test_a_node_that_acknowledges_meanwhile_stays(
    fleet: Acknowledgers, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its document is deleted only as it was seen."""
    for day in range(DAYS):
        look(day)
    delete = ConsulKV.delete

    def late(kv: ConsulKV, key: str, index: int | None = None) -> bool:
        fleet.acknowledge(LOST, 20)
        return delete(kv, key, index)

    monkeypatch.setattr(ConsulKV, "delete", late)
    assert look(DAYS) == []
    assert is_there(fleet)


def test_a_catalogue_that_lacks_most_nodes_is_not_believed(fleet: Acknowledgers, look: Look) -> None:
    """As while Consul is being rebuilt: nothing is recorded, nor removed."""
    look(0)
    for number in range(2):
        fleet.consul.put("/v1/catalog/deregister", {"Node": fleet.node(number)})
    for day in range(1, DAYS + 2):
        with pytest.raises(ConsulUnavailable, match="lacks 3 of 5 nodes"):
            look(day)
    assert days_missing(fleet) == {fleet.node(LOST): 0}
    assert all(is_there(fleet, number) for number in range(LOST + 1))


def test_a_document_that_cannot_be_read_stays(fleet: Acknowledgers, look: Look) -> None:
    """Nobody knows in which datacenter its node is."""
    fleet.consul.kv_put(fleet.keys.node(fleet.node(LOST)), b"junk")
    for day in range(DAYS + 2):
        assert look(day) == []
    assert is_there(fleet)


def test_a_node_in_a_datacenter_that_cannot_be_asked_stays(fleet: Acknowledgers, look: Look) -> None:
    """The others are forgotten all the same."""
    fleet.acknowledge(5, 20, datacenter="elsewhere")
    for day in range(DAYS + 2):
        look(day)
    assert not is_there(fleet)
    assert is_there(fleet, 5)


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b'{"format":1,"looked":1,"nodes":{"a":[1,true]}}', b"[" * 9999]
)
def test_a_record_that_cannot_be_read_is_begun_anew(fleet: Acknowledgers, look: Look, junk: bytes) -> None:
    """Somebody else wrote it; it costs days, and no document."""
    for day in range(DAYS):
        look(day)
    fleet.consul.kv_put(fleet.keys.absences, junk)
    assert look(DAYS) == []
    assert days_missing(fleet) == {fleet.node(LOST): 0}


def test_the_record_is_no_junk_and_no_node(
    fleet: Acknowledgers, look: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    """`agentd fleet` tells for how long the node is gone, and nothing else of it."""
    fleet.acknowledge(LOST, 10)
    for day in range(4):
        look(day)
    where = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url, "--service", "nobody"]
    assert main(["fleet", *where]) == 1
    shown = capsys.readouterr().out
    assert "5 nodes, 1 of them differs" in shown
    assert "gone for 3 days; Consul does not know this node" in shown
    assert "behind" not in shown
    assert "none of agentd's" not in shown
    main(["fleet", "--json", *where])
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert (found["trouble"], found["node"], found["gone"]) == ("silent", fleet.node(LOST), 3)


def test_forget_gone_says_who_stays_and_who_goes(
    fleet: Acknowledgers, look: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second time on the same day it does and says the same."""
    where = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
    for _ in range(2):
        assert main(["fleet", "forget", "--gone", *where]) == 0
        stays = f"{fleet.node(LOST)} stays for now: Consul has not known it for 0 of {DAYS} days.\n"
        assert capsys.readouterr().out == stays
    for day in range(DAYS - 1):  # the first command counted as well
        look(day)
    assert main(["fleet", "forget", "--gone", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == {"forgotten": [fleet.node(LOST)]}
    assert main(["fleet", "forget", "--gone", *where]) == 0
    assert "knows every node" in capsys.readouterr().out
    assert main(["fleet", "forget", "--gone", "lb1", *where]) == 2
    assert main(["fleet", "forget", *where]) == 2


def test_whoever_publishes_forgets_who_is_gone(
    fleet: Acknowledgers, look: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so, beside what it prints for programs."""
    for day in range(DAYS):
        look(day)
    where = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
    assert main(["publish", "blocked", "add 192.0.2.9", "--json", *where]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["name"] == "blocked"
    assert f"{fleet.node(LOST)} is forgotten: Consul has not known it for {DAYS} days" in told.err
    assert not is_there(fleet)


def test_publishing_looks_once_a_day(fleet: Acknowledgers) -> None:
    """It does not read every document each time."""
    where = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
    main(["publish", "blocked", "add 192.0.2.9", *where])
    first = fleet.consul.get(f"/v1/kv/{fleet.keys.absences}")[0]["ModifyIndex"]
    main(["publish", "blocked", "add 192.0.2.9", *where])
    assert fleet.consul.get(f"/v1/kv/{fleet.keys.absences}")[0]["ModifyIndex"] == first
    assert days_missing(fleet) == {fleet.node(LOST): 0}


def test_a_fleet_without_nodes_gets_no_record(consul: ConsulAgent) -> None:
    """Publishing does not fill a fleet that nobody has joined yet."""
    with acknowledgers(consul, f"gone-{free_port()}", 0) as empty:
        where = ["--fleet", empty.keys.fleet, "--http-addr", consul.url]
        assert main(["publish", "blocked", "add 192.0.2.9", *where]) == 0
        assert main(["fleet", "forget", "--gone", *where]) == 1  # perhaps its name was mistyped
        assert consul.kv_get(empty.keys.absences) is None
