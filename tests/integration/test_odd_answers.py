"""A Consul whose answers have odd items in them, and a real daemon: the others go on, and nothing grows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.newer_consul import Points
from tests.servers.waiting import wait_until

NewConsul = Callable[..., ConsulAgent]
NewNode = Callable[..., Node]

_INPUTS = Path(__file__).parents[1] / "inputs"
_EVENT = {"ID": "99999999-0000-4000-8000-000000000000", "Name": BLACKLIST_EVENT, "Payload": None, "LTime": 1}
_MOST_MEMORY = 300_000  # kB: parsed, the 24 MB alone would take 600,000


def _events(**fields: object) -> bytes:
    return json.dumps(_EVENT | fields).encode()


_ODD = [
    _events(ID="\ud800" + "9" * 35),
    _events(ID="x\tr\n0.0.0.0/0\tall\t-\t1.0\ty"),
    _events(ID="9" * 100_000),
    _events(Name=None),
    _events(Name="\x1b[2J\u2028"),
    _events(LTime="seven"),
    _events(LTime=10**400),
    _events(LTime=True),
    _events(Payload={"a": 1}),
    _events(LTime=0)[:-1] + b', "deep": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    _events(LTime=0)[:-1] + b', "LTime": NaN}',
    _events(LTime=0)[:-1] + b', "text": "\xff"}',
    b"[" * 5_000 + b"]" * 5_000,
    b"null",
]  # fmt: skip


@pytest.fixture
def odd(new_consul: NewConsul) -> ConsulAgent:
    """An agent behind a proxy that adds to its answers; it limits nothing."""
    return new_consul(newer=Points(limit_every=0, event_body=0))


def _dropped(node: Node) -> dict[str, float]:
    """The counter by reason, as Prometheus reads it."""
    _, page = node.agentd.get("/metrics")
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "agentd_watch_dropped_total"
    }


def _told(node: Node) -> list[dict[str, Any]]:
    lines = map(json.loads, node.agentd.log_lines())
    return [line for line in lines if line["event"] == "consul.item_dropped"]


def _peak(node: Node) -> int:
    """The most memory that the daemon had so far, in kB."""
    status = Path(f"/proc/{node.agentd.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) if found else 0


def test_odd_events_are_dropped_once_and_all_others_applied(odd: ConsulAgent, new_node: NewNode) -> None:
    """In one list with them, also across a restart; each is counted once, and each kind told once."""
    assert odd.proxy is not None
    odd.proxy.odd["/v1/event/list"] = _ODD
    node = new_node(odd, handlers=main_job()).start()

    for number in range(5):
        entry = node.outcome(node.fire(BLACKLIST_EVENT, f"198.51.100.{number}".encode()))
        assert entry["outcome"] == "applied"

    counted = _dropped(node)
    assert set(counted) == {
        "ID", "Name", "LTime", "Payload", "not JSON", "not an object", "nested too deeply",
    }  # fmt: skip
    assert (counted["LTime"], counted["Name"]) == (3, 2)
    assert sorted(line["reason"] for line in _told(node)) == sorted(counted)
    assert all(line.isprintable() for line in node.agentd.log_lines())
    node.agentd.stop()
    node.agentd.start()
    assert node.outcome(node.fire(BLACKLIST_EVENT, b"198.51.100.9"))["outcome"] == "applied"
    blocked = node.content()["blacklist/ipv4.ranges"].decode()
    assert blocked.split() == ["198.51.100.0-198.51.100.4", "1;", "198.51.100.9-198.51.100.9", "1;"]
    (event,) = [
        one for one in json.loads(node.agentd.get("/status")[1])["queries"] if one["query"] == "event"
    ]
    assert (event["error"], event["missed"]) == (None, 0)
    assert event["odd"] == len(counted) + 6  # what is no object counts as one


def test_24_mb_of_lists_take_little_memory(odd: ConsulAgent, new_node: NewNode) -> None:
    """As one item beside an event, they are dropped before they are parsed; the event is applied."""
    assert odd.proxy is not None
    node = new_node(odd, handlers=main_job()).start()
    odd.proxy.odd["/v1/event/list"] = [_events(LTime=0)[:-1] + b', "a": [' + b"[]," * 4_000_000 + b"[]]}"]

    assert node.outcome(node.fire(BLACKLIST_EVENT, b"198.51.100.1"))["outcome"] == "applied"

    assert _dropped(node) == {"too large": 1}
    assert _peak(node) < _MOST_MEMORY


def test_the_events_among_odd_ones_are_applied(odd: ConsulAgent, new_node: NewNode) -> None:
    """The first and the last; the payload that is not base64 is refused."""
    assert odd.proxy is not None
    odd.proxy.odd["/v1/event/list"] = [
        json.dumps(one).encode() for one in json.loads((_INPUTS / "events-odd.json").read_text())
    ]
    node = new_node(odd, handlers=main_job()).start()

    found = {
        digit: node.outcome(f"{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}")
        for digit in "156"
    }

    assert {digit: entry["outcome"] for digit, entry in found.items()} == {
        "1": "applied", "5": "refused", "6": "applied",
    }  # fmt: skip
    assert "not base64" in found["5"]["reason"]
    assert len(node.history("blacklist")) == 3


@pytest.mark.parametrize("index", ["-1", "seven", "9" * 5_000, ""])
def test_an_odd_index_is_told_and_survived(odd: ConsulAgent, new_node: NewNode, index: str) -> None:
    """While it lasts the query fails; afterwards events are applied."""
    assert odd.proxy is not None
    node = new_node(odd, handlers=main_job()).start()
    odd.proxy.index = index
    identity = node.fire(BLACKLIST_EVENT, b"198.51.100.1")
    wait_until(
        lambda: "X-Consul-Index" in node.agentd.command("status").stdout, "the status tells", pause=0.5
    )

    odd.proxy.index = None

    assert node.outcome(identity)["outcome"] == "applied"
