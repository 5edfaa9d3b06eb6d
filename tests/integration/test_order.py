"""What a node makes of Consul's events when their clock, the ring or the node's own memory is lost."""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
from collections.abc import Callable

from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
NewConsul = Callable[..., ConsulAgent]


def rotate(node: Node) -> bytes:
    """Fire a new key, wait until it is applied, and return it."""
    key = secrets.token_bytes(48)
    ended = node.outcome(node.fire(TICKET_EVENT, base64.b64encode(key)))
    assert ended["outcome"] == "applied"
    return key


def missed(node: Node) -> float:
    """How many events the metric says went by unseen since agentd started."""
    found = re.search(r"^agentd_events_missed_total (\S+)$", node.agentd.get("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def _lamport(agent: ConsulAgent) -> int:
    """An agent's clock of events."""
    return int(agent.get("/v1/agent/self")["Stats"]["serf_lan"]["event_time"])


def event_poll(node: Node) -> dict[str, object]:
    """What the daemon says of its poll of events."""
    (found,) = [
        one for one in json.loads(node.agentd.get("/status")[1])["queries"] if one["query"] == "event"
    ]
    return dict(found)


def test_rotations_go_on_after_consul_lost_its_data(new_node: NewNode, new_consul: NewConsul) -> None:
    """Its Lamport time begins again, far below that of the keys in the ring, and each new key encrypts."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    for _ in range(40):
        node.fire("another", b"")
    assert rotate(node) == node.tickets()[0].read_bytes()
    consul.stop()
    shutil.rmtree(consul.directory / "data")
    consul.start()

    for _ in range(2):
        assert rotate(node) == node.tickets()[0].read_bytes()

    assert event_poll(node)["epoch"] == 1
    wait_until(lambda: any("events.new_epoch" in line for line in node.agentd.log_lines()), "the word")


def test_rotations_go_on_if_agentd_was_down_meanwhile(new_node: NewNode, new_consul: NewConsul) -> None:
    """What it remembers of the clock is in the journal."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    for _ in range(10):
        node.fire("another", b"")
    rotate(node)
    node.agentd.stop()
    consul.stop()
    shutil.rmtree(consul.directory / "data")
    consul.start()
    key = secrets.token_bytes(48)
    identity = node.fire(TICKET_EVENT, base64.b64encode(key))
    node.agentd.start()

    assert node.outcome(identity)["outcome"] == "applied"
    assert node.tickets()[0].read_bytes() == key


def test_an_overflow_while_agentd_was_down_is_counted(new_node: NewNode, new_consul: NewConsul) -> None:
    """300 events, of which the ring holds 256; nobody waits for the next one."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    node.agentd.stop()
    for number in range(300):
        last = node.fire("another", str(number).encode())
    wait_until(lambda: last in [one["ID"] for one in consul.events()], "all to be in the ring")
    node.agentd.start()

    wait_until(lambda: missed(node), "the loss to be counted")

    assert (missed(node), event_poll(node)["missed"]) == (44, 44)
    wait_until(lambda: any("events.missed" in line for line in node.agentd.log_lines()), "the word")


def test_events_fired_while_the_agent_was_down_are_counted(new_node: NewNode, new_consul: NewConsul) -> None:
    """The agent's own clock shows them: its ring is empty, and no further event comes."""
    first = new_consul()
    second = new_consul(node="node2", address="127.0.0.2", join=first)
    node = new_node(second, handlers=main_job(), settings={
        "consul": {"address": f"{second.address}:{second.ports['http']}", "wait": "2s"}
    }).start()  # fmt: skip
    node.outcome(first.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    second.stop()
    for number in range(20):
        first.fire("another", str(number).encode())
    first.stop()  # or it would keep them for `second`
    first.start()
    second.start()
    wait_until(lambda: _lamport(second) >= _lamport(first), "the second to have the first one's clock")

    wait_until(lambda: missed(node), "the loss to be counted")

    # `first` elected a leader, which ticks as well; one such tick is not taken for an event.
    assert missed(node) == 20


def test_a_restarted_agent_raises_no_alarm(new_node: NewNode, new_consul: NewConsul) -> None:
    """It elects a leader, which ticks its clock; no event is missing, before and after the next one."""
    consul = new_consul()
    settings = {"consul": {"address": f"{consul.address}:{consul.ports['http']}", "wait": "2s"}}
    node = new_node(consul, handlers=main_job(), settings=settings).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    consul.stop()
    consul.start()
    wait_until(
        lambda: any("events.ring_lost" in line for line in node.agentd.log_lines()), "the restart to be seen"
    )
    answers = event_poll(node)["answers"]
    assert isinstance(answers, int)
    wait_until(lambda: int(str(event_poll(node)["answers"])) > answers + 2, "further polls")
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.8"))

    assert missed(node) == 0


def test_a_lost_journal_brings_no_ban_back(new_node: NewNode, new_consul: NewConsul) -> None:
    """The event is still in Consul's ring, and nothing says when it was fired."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job()).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7 8s"))
    lasting = node.fire(BLACKLIST_EVENT, b"add 198.51.100.8")
    node.outcome(lasting)
    wait_until(lambda: b"198.51.100.7" not in node.read("blacklist/entries.tsv"), "the ban to end")
    node.agentd.stop()
    for file in node.journal.parent.glob("journal.db*"):
        file.unlink()
    node.agentd.start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.9"))

    entries = node.read("blacklist/entries.tsv")

    assert b"198.51.100.7" not in entries
    assert b"198.51.100.8" in entries
    assert node.entry(lasting) is None


def test_with_journal_and_tree_lost_only_what_lasts_comes_back(
    new_node: NewNode, new_consul: NewConsul
) -> None:
    """As at a first start: a ban of limited time counts as over, and is told."""
    consul = new_consul()
    consul.fire(BLACKLIST_EVENT, b"add 198.51.100.7 10m")
    lasting = consul.fire(BLACKLIST_EVENT, b"add 198.51.100.8")
    node = new_node(consul, handlers=main_job()).start()
    node.outcome(lasting)

    entries = node.read("blacklist/entries.tsv")

    assert b"198.51.100.7" not in entries
    assert b"198.51.100.8" in entries
    assert any("blacklist.undated" in line for line in node.agentd.log_lines())
