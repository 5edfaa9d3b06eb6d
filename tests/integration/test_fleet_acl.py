"""The policies of `config/consul/` under default deny: each is enough for its role, and no rule is too many.

Each rule is left out once, and what is told then names it: somebody who reads that can mend it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.cli import main
from agentd.fleet.absence import Absence, Absences
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.departure import Departure
from agentd.fleet.gone import DAYS
from agentd.fleet.keys import Keys
from agentd.fleet.registration import ensure, service_id
from agentd.journal.journal import Journal
from agentd.journal.memberships import Membership, Memberships
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.acknowledgers import NAME, Acknowledgers, acknowledgement, acknowledgers
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.followers import FollowingNode
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

POLICIES = Path(__file__).parents[2] / "config" / "consul"
_RULE = re.compile(r'(\w+) "([^"]*)" \{\s*policy = "(\w+)"\s*\}')
_ROOM = "agentd/FLEET/"


@dataclass(frozen=True)
class Rule:
    """One rule of a policy, of the fleet FLEET and the node NODE."""

    kind: str
    segment: str
    access: str

    def __str__(self) -> str:
        return f"{self.kind} {self.segment}".strip()

    def text(self, fleet: str, node: str = "") -> str:
        """As Consul reads it, and as agentd prints the rule to add."""
        segment = self.segment.replace("FLEET", fleet).replace("NODE", node)
        return f'{self.kind} "{segment}" {{ policy = "{self.access}" }}'


def rules(role: str) -> list[Rule]:
    """Those of a file, without the ones in comments."""
    lines = (POLICIES / f"{role}.hcl").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return [Rule(*found) for found in _RULE.findall(text)]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """One Consul server that denies what no rule grants."""
    require("consul")
    agent = ConsulAgent(tmp_path_factory.mktemp("strict"), acl=True)
    agent.start()
    yield agent
    agent.stop()


def token(strict: ConsulAgent, fleet: str, wanted: list[Rule], node: str = "") -> str:
    """A token that has these rules, and nothing else."""
    return strict.make_token("\n".join(rule.text(fleet, node) for rule in wanted))


# ---------------------------------------------------------------- viewer


@pytest.fixture
def fleet(strict: ConsulAgent) -> Iterator[Acknowledgers]:
    """Two nodes that agree, as documents."""
    with acknowledgers(strict, f"acl-{free_port()}", 2) as made:
        yield made


def look(
    strict: ConsulAgent, made: Acknowledgers, wanted: list[Rule], monkeypatch: pytest.MonkeyPatch
) -> int:
    """`agentd fleet` with these rights."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, made.keys.fleet, wanted))
    return main(["fleet", "--fleet", made.keys.fleet, "--http-addr", strict.url, "--service", "nobody"])


def test_the_policy_of_a_viewer_is_enough(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of the table, and nothing that was left out."""
    assert look(strict, fleet, rules("viewer"), monkeypatch) == 0

    told = capsys.readouterr()
    assert "2 nodes, all agree" in told.out
    assert "policy" not in told.out + told.err


@pytest.mark.parametrize("left_out", rules("viewer"), ids=str)
def test_a_viewer_is_told_which_right_is_missing(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    left_out: Rule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is missing is never taken for empty."""
    look(strict, fleet, [rule for rule in rules("viewer") if rule != left_out], monkeypatch)

    told = capsys.readouterr()
    text = left_out.text(fleet.keys.fleet)
    prefix = text.partition('/"')[0]  # of messages the one name that there is
    assert prefix in told.out + told.err


# ---------------------------------------------------------------- publisher


def publish(
    strict: ConsulAgent, name: str, wanted: list[Rule], monkeypatch: pytest.MonkeyPatch, body: Path
) -> list[int]:
    """All that a publisher does in the fleet of that name, with these rights; the exit statuses."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, wanted))
    body.write_bytes(b"#" * 40_000)
    where = ["--fleet", name, "--http-addr", strict.url]
    return [
        main(["publish", "news", "one", "--keep", "all", *where]),
        main(["publish", "news", "--file", str(body), "--keep", "all", *where]),
        main(["publish", "news", "two", "--keep", "all", "--node", "lb", *where]),
        main(["log", "forget", "news", "--yes", *where]),
    ]


def test_the_policy_of_a_publisher_is_enough(
    strict: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first message of a fleet, a long one, one for some nodes; then they are forgotten."""
    name = f"acl-{free_port()}"
    strict.kv_put(f"agentd/{name}/nodes/lb-1", b"{}")

    assert publish(strict, name, rules("publisher"), monkeypatch, tmp_path / "body") == [0] * 4
    assert "policy" not in capsys.readouterr().err


@pytest.mark.parametrize("left_out", rules("publisher"), ids=str)
def test_a_publisher_is_told_which_right_is_missing(
    strict: ConsulAgent,
    left_out: Rule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the command that needs it; nothing is said to be published that is not."""
    name = f"acl-{free_port()}"
    strict.kv_put(f"agentd/{name}/nodes/lb-1", b"{}")
    wanted = [rule for rule in rules("publisher") if rule != left_out]

    publish(strict, name, wanted, monkeypatch, tmp_path / "body")

    told = capsys.readouterr().err
    assert left_out.text(name).partition('/"')[0] in told
    assert "at the same time" not in told


def test_a_job_may_be_let_publish_one_name_only(
    strict: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the policy's comment says. What other names need is unknown to it, so it sweeps no body."""
    name = f"acl-{free_port()}"
    strict.kv_put(f"agentd/{name}/nodes/lb-1", b"{}")
    others = Keys(name).body("ab" * 32)
    strict.kv_put(others, b"x")
    strict.kv_put(Keys(name).swept, json.dumps({"format": 1, "since": {"ab" * 32: 1}}).encode())
    several = ("names", "messages", "pruned")
    wanted = [one for one in rules("publisher") if one.segment.split("/")[2] not in several]
    wanted += [Rule("key", f"agentd/FLEET/names/{key}", "write") for key in ("news", "_fleet")]
    wanted += [Rule("key_prefix", f"agentd/FLEET/{part}/news/", "write") for part in several[1:]]

    assert publish(strict, name, wanted, monkeypatch, tmp_path / "body") == [0] * 4
    assert "policy" not in capsys.readouterr().err
    assert strict.kv_get(others) == b"x"
    assert main(["publish", "other", "x", "--keep", "all", "--fleet", name, "--http-addr", strict.url]) == 1
    assert f"agentd/{name}/names/other" in capsys.readouterr().err


def roll_out(
    strict: ConsulAgent, name: str, wanted: list[Rule], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Begin a rollout that no node confirms, look at it, abort it, with these rights; the statuses."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.token or "")
    where = ["--fleet", name, "--http-addr", strict.url]
    assert main(["publish", NAME, "one", "--keep", "latest", *where]) == 0
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, wanted))
    return [
        main(["publish", NAME, "two", "--canary", "1", "--timeout", "3s", *where]),
        main(["rollout", "status", *where]),
        main(["rollout", "abort", NAME, *where]),
    ]


def test_publisher_and_viewer_together_may_roll_out(
    strict: ConsulAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begin it, see who has not confirmed, and abort it."""
    name = f"acl-{free_port()}"
    strict.kv_put(Keys(name).node("lb-1"), render(acknowledgement(1, None)))

    assert roll_out(strict, name, rules("publisher") + rules("viewer"), monkeypatch) == [1, 0, 0]
    told = capsys.readouterr()
    assert "1 of 1 nodes did not confirm it within 3.0 s" in told.out
    assert "policy" not in told.err


def test_whoever_may_not_see_the_nodes_rolls_nothing_out(
    strict: ConsulAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is told the rule to add; nobody would be waited for."""
    name = f"acl-{free_port()}"
    strict.kv_put(Keys(name).node("lb-1"), render(acknowledgement(1, None)))
    wanted = [rule for rule in rules("publisher") if "/nodes/" not in rule.segment]

    assert roll_out(strict, name, wanted, monkeypatch) == [1, 1, 1]
    assert f"agentd/{name}/nodes/" in capsys.readouterr().err
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.token or "")
    assert main(["rollout", "status", "--fleet", name, "--http-addr", strict.url]) == 0
    assert capsys.readouterr().out == "No rollout is open.\n"


_WAITING = [
    Rule("key_prefix", "agentd/FLEET/nodes/", "read"),
    Rule("key", f"agentd/FLEET/names/{NAME}", "read"),
    Rule("key_prefix", f"agentd/FLEET/messages/{NAME}/", "read"),
]


@pytest.mark.parametrize("left_out", [None, *_WAITING], ids=str)
def test_who_waits_needs_to_read_the_one_name(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    left_out: Rule | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Otherwise nothing is fired; with all rights, it is found out that nobody relays it."""
    name = fleet.keys.fleet
    wanted = [Rule("event_prefix", "", "write"), *(one for one in _WAITING if one != left_out)]
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, wanted))
    fired = len(strict.events())

    assert (
        main(["fire", NAME, "x", "--wait", "--timeout", "1s", "--fleet", name, "--http-addr", strict.url])
        == 1
    )

    said = capsys.readouterr().err
    if left_out is None:
        assert "did not reach the log" in said
    else:
        assert f'{left_out.segment.replace("FLEET", name)}" {{ policy = "read" }}' in said
        assert len(strict.events()) == fired


@pytest.mark.parametrize("seen", ["all", "some"])
def test_nodes_with_services_that_may_not_be_seen_are_not_left_out(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither does a wait end well without them, nor does the table keep quiet."""
    name = fleet.keys.fleet
    fleet.publish(30, service="^edge")
    rule = Rule("service_prefix", "" if seen == "all" else "edge-1", "read")
    wanted = [*rules("viewer"), *rules("publisher"), rule]
    assert look(strict, fleet, wanted, monkeypatch) == 0
    assert ("cannot tell which nodes" in capsys.readouterr().out) == (seen == "some")

    where = ["--fleet", name, "--http-addr", strict.url]
    assert main(["publish", NAME, "x", "--service", "^edge", "--wait", "--timeout", "1s", *where]) == 1
    why = 'the token may not see all services; add to its policy: service_prefix "" { policy = "read" }'
    assert (f"is in the log, but {why}" in capsys.readouterr().err) == (seen == "some")


# ---------------------------------------------------------------- leaving, and being forgotten


def leaving(strict: ConsulAgent, name: str, file: Path) -> list[str]:
    """The command by which the node leaves; it has a document and a service."""
    file.write_text(
        f"consul: {{address: '{strict.url}'}}\nfleet: {{name: {name}, node: lb-1}}\nstate: {file.parent}\n"
    )
    options = ConsulOptions(address=strict.url).typed(token=strict.token, verify=True)
    with closing(ConsulClient(options)) as own:
        ensure(own, name, "lb-1", "127.0.0.1:1")
        document = replace(acknowledgement(1, None, stopped=1.0), node_id=own.self_info().node_id)
    strict.kv_put(f"agentd/{name}/nodes/lb-1", render(document))
    return ["--config", str(file), "leave"]


def left(strict: ConsulAgent, name: str) -> list[bool]:
    """Whether the document is gone, and the service."""
    services = strict.get("/v1/agent/services")
    return [strict.kv_get(f"agentd/{name}/nodes/lb-1") is None, service_id(name, "lb-1") not in services]


def test_the_policy_of_a_node_is_enough_to_leave(
    strict: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own token, and twice."""
    name = f"acl-{free_port()}"
    command = leaving(strict, name, tmp_path / "agentd.yaml")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, rules("node"), "lb-1"))
    assert main(command) == 0
    assert left(strict, name) == [True, True]
    assert main(command) == 0


@pytest.mark.parametrize("segment", ["agentd/FLEET/nodes/NODE", "agentd"])
def test_who_may_not_leave_leaves_nothing_half_done(
    segment: str,
    strict: ConsulAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A service that the token may not see is not taken for one that is not there."""
    name = f"acl-{free_port()}"
    command = leaving(strict, name, tmp_path / "agentd.yaml")
    wanted = [rule for rule in rules("node") if rule.segment != segment]
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, wanted, "lb-1"))

    assert main(command) == 1
    missing = segment.replace("FLEET", name).replace("NODE", "lb-1")
    assert f'"{missing}" {{ policy = "write" }}' in capsys.readouterr().err
    assert left(strict, name) == [False, False]


def test_a_node_that_registers_no_service_needs_no_right_on_it(
    strict: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `fleet.service: false`."""
    name = f"acl-{free_port()}"
    command = leaving(strict, name, tmp_path / "agentd.yaml")
    file = tmp_path / "agentd.yaml"
    file.write_text(file.read_text().replace("node: lb-1", "node: lb-1, service: false"))
    wanted = [rule for rule in rules("node") if rule.kind != "service"]
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, wanted, "lb-1"))
    assert main(command) == 0
    assert left(strict, name)[0]


def test_a_viewer_who_forgets_a_node_is_told_the_rule(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the document stays."""
    name = fleet.keys.fleet
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, name, rules("viewer")))
    where = ["--fleet", name, "--http-addr", strict.url]
    assert main(["fleet", "forget", fleet.node(0), "--force", *where]) == 1
    assert f'"{fleet.keys.node(fleet.node(0))}" {{ policy = "write" }}' in capsys.readouterr().err
    assert strict.kv_get(fleet.keys.node(fleet.node(0))) is not None


def depart(strict: ConsulAgent, tmp_path: Path, wanted: list[Rule], expected: str) -> tuple[str, str]:
    """Start without the fleet, with these rights; the fleet, and what is told of that until `expected` is."""
    name = f"acl-{free_port()}"
    leaving(strict, name, tmp_path / "agentd.yaml")
    secret = token(strict, name, wanted, "lb-1")
    with closing(Journal(tmp_path / "journal.db")) as journal, capture_logs() as logs:
        Memberships(journal).add(Membership(name, "dc1", "lb-1"))
        options = ConsulOptions(address=strict.url).typed(token=secret, verify=True)
        departure = Departure(journal, options)
        departure.start(None)
        wait_until(lambda: expected in [one["event"] for one in logs], f"{expected} to be told")
        departure.close()
    return name, " ".join(str(one.get("reason", "")) for one in logs)


def test_the_policy_of_a_node_is_enough_to_leave_by_its_configuration(
    strict: ConsulAgent, tmp_path: Path
) -> None:
    """It takes document and service back, and has nothing to complain of."""
    name, told = depart(strict, tmp_path, rules("node"), "fleet.left")

    assert left(strict, name) == [True, True]
    assert not told


@pytest.mark.parametrize("segment", ["agentd/FLEET/nodes/NODE", "agentd"])
def test_what_a_node_may_not_take_back_is_told(segment: str, strict: ConsulAgent, tmp_path: Path) -> None:
    """With the rule; a service that cannot be seen is not taken for one that is not there."""
    wanted = [rule for rule in rules("node") if rule.segment != segment]

    name, told = depart(strict, tmp_path, wanted, "fleet.not_left")

    missing = segment.replace("FLEET", name).replace("NODE", "lb-1")
    assert f'"{missing}" {{ policy = "write" }}' in told


def forget_gone(
    strict: ConsulAgent, made: Acknowledgers, wanted: list[Rule], monkeypatch: pytest.MonkeyPatch
) -> int:
    """`agentd fleet forget --gone` with these rights, while one node lacks a day until its time is up."""
    made.acknowledge(2, 20)
    key = made.keys.node(made.node(2))
    index = strict.get(f"/v1/kv/{key}")[0]["ModifyIndex"]
    strict.kv_put(made.keys.absences, Absences(1.0, {made.node(2): Absence(index, DAYS)}).render())
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(strict, made.keys.fleet, wanted))
    return main(["fleet", "forget", "--gone", "--fleet", made.keys.fleet, "--http-addr", strict.url])


def test_the_policy_of_an_operator_is_enough(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To forget who is gone, and one that is named."""
    assert forget_gone(strict, fleet, rules("operator"), monkeypatch) == 0
    where = ["--fleet", fleet.keys.fleet, "--http-addr", strict.url]
    assert main(["fleet", "forget", fleet.node(0), "--force", *where]) == 0
    assert f"{fleet.node(2)} is forgotten" in capsys.readouterr().out


@pytest.mark.parametrize("left_out", [one for one in rules("operator") if one.kind != "service"], ids=str)
def test_who_may_not_see_all_nodes_forgets_none(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    left_out: Rule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the right they would all count as gone; the rule is told."""
    wanted = [rule for rule in rules("operator") if rule != left_out]
    wanted += [Rule("node", "elsewhere", "read"), Rule("key_prefix", "agentd/FLEET/nodes", "read")]
    assert forget_gone(strict, fleet, wanted, monkeypatch) == 1
    assert left_out.text(fleet.keys.fleet) in capsys.readouterr().err
    assert strict.kv_get(fleet.keys.node(fleet.node(2))) is not None


def test_a_node_that_alone_may_not_be_seen_is_not_gone(
    strict: ConsulAgent,
    fleet: Acknowledgers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rule for all nodes does not hold for one that has a rule of its own."""
    hidden = Rule("node", fleet.node(2), "deny")
    fleet.join(2)
    assert forget_gone(strict, fleet, [*rules("operator"), hidden], monkeypatch) == 0
    assert "knows every node" in capsys.readouterr().out
    assert strict.kv_get(fleet.keys.node(fleet.node(2))) is not None


# ---------------------------------------------------------------- node and relay

NODE = "lb-1"
NewNode = Callable[..., FollowingNode]


@pytest.fixture
def fleet_name() -> str:
    """Of a fleet that no other test has."""
    return f"acl-{free_port()}"


@pytest.fixture
def new_node(strict: ConsulAgent, directory: Path, fleet_name: str) -> Iterator[NewNode]:
    """Make the node with these rights; it relays if it may write to the log. It is stopped at the end."""
    with ExitStack() as stack:

        def make(wanted: list[Rule], *, relay: bool = False) -> FollowingNode:
            file = directory / "token"
            file.write_text(token(strict, fleet_name, wanted, NODE))
            settings = {
                "consul": {"address": strict.url, "token_file": str(file)},
                "fleet": {"name": fleet_name, "node": NODE, "relay": relay},
            }
            node = FollowingNode(
                directory / NODE, NODE, fleet=fleet_name, consul=strict, event=fleet_name, settings=settings
            )
            stack.callback(node.stop)
            return node

        yield make


def publish_one(strict: ConsulAgent, fleet: str, monkeypatch: pytest.MonkeyPatch, payload: str) -> None:
    """Publish a message, as somebody who may."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.token or "")
    where = ["--fleet", fleet, "--http-addr", strict.url]
    assert main(["publish", fleet, payload, "--keep", "all", *where]) == 0


def told(node: FollowingNode) -> str:
    """What the daemon says: its log, and its status."""
    log = "\n".join(node.agentd.log_lines()).replace('\\"', '"')
    return log + node.agentd.command("status").stdout


def check(node: FollowingNode) -> str:
    """What `agentd check` says."""
    return node.agentd.command("check").stdout


def test_the_policy_of_a_node_is_enough(
    strict: ConsulAgent, fleet_name: str, new_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows the log, also to a long message, acknowledges, and is registered; nothing is missed."""
    node = new_node(rules("node")).start()
    publish_one(strict, fleet_name, monkeypatch, "1")
    publish_one(strict, fleet_name, monkeypatch, "2" * 40_000)
    node.await_tally("1", "2" * 40_000)
    wait_until(lambda: strict.kv_get(f"agentd/{fleet_name}/nodes/{NODE}"), "the acknowledgement")
    wait_until(lambda: strict.get("/v1/health/service/agentd"), "the service")

    assert "policy =" not in told(node) + check(node)


@pytest.mark.parametrize("left_out", rules("node"), ids=str)
def test_a_node_is_told_which_right_is_missing(
    left_out: Rule,
    strict: ConsulAgent,
    fleet_name: str,
    new_node: NewNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `agentd check`, and by the daemon once it needs the right."""
    node = new_node([rule for rule in rules("node") if rule != left_out])
    text = left_out.text(fleet_name, NODE)
    assert text in check(node)
    if left_out.kind.startswith("agent"):
        return  # without it agentd only counts less

    for payload in ("1", "2", "3" * 40_000):  # so many that they must be read one by one
        publish_one(strict, fleet_name, monkeypatch, payload)
    node.start()

    spoken = f"right to {left_out.access} {left_out.kind.removesuffix('_prefix')} "
    wait_until(lambda: text in told(node) or spoken in told(node), f"word of {text}", pause=0.5)


def test_the_policy_of_a_relay_is_enough(strict: ConsulAgent, fleet_name: str, new_node: NewNode) -> None:
    """An event that was heard is in the log, and applied from there."""
    node = new_node(rules("node") + rules("relay"), relay=True).start()
    node.agentd.await_listening()
    strict.fire(fleet_name, b"1")
    node.await_tally("1")

    wait_until(lambda: strict.kv_get(f"agentd/{fleet_name}/names/{fleet_name}"), "the head")
    assert "policy =" not in told(node) + check(node)


@pytest.mark.parametrize("left_out", rules("relay"), ids=str)
def test_a_relay_is_told_which_right_is_missing(
    left_out: Rule, strict: ConsulAgent, fleet_name: str, new_node: NewNode
) -> None:
    """The event is applied all the same, as it was heard."""
    wanted = rules("node") + [rule for rule in rules("relay") if rule != left_out]
    node = new_node(wanted, relay=True)
    text = left_out.text(fleet_name)
    assert text in check(node)

    node.start()
    node.agentd.await_listening()
    strict.fire(fleet_name, b"1")
    node.await_tally("1")

    # The others are needed only once something is pruned, or Consul has lost a long message.
    if left_out.segment.split("/")[2] in ("names", "messages"):
        wait_until(lambda: text in told(node), f"word of {text}", pause=0.5)


def grant(strict: ConsulAgent, node: FollowingNode, wanted: list[Rule], fleet: str) -> None:
    """Give the node's token other rules, as an operator does who has read what is missing."""
    secret = (node.directory.parent / "token").read_text()
    (policy,) = strict.request("GET", "/v1/acl/token/self", token=secret)["Policies"]
    text = "\n".join(rule.text(fleet, NODE) for rule in wanted)
    strict.put(f"/v1/acl/policy/{policy['ID']}", {"Name": policy["Name"], "Rules": text})


@pytest.mark.parametrize("missing", ["messages", "bodies"])  # that of the heads is noticed within a minute
def test_a_right_that_is_added_needs_no_restart(
    missing: str,
    strict: ConsulAgent,
    fleet_name: str,
    new_node: NewNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node catches up with all that it could not read, each message once."""
    node = new_node([rule for rule in rules("node") if f"/{missing}/" not in rule.segment])
    for payload in ("1", "2", "3" * 40_000):
        publish_one(strict, fleet_name, monkeypatch, payload)
    node.start()
    rule = f'key_prefix "agentd/{fleet_name}/{missing}/"'
    wait_until(lambda: rule in told(node), f"word of {rule}", pause=0.5)

    grant(strict, node, rules("node"), fleet_name)
    publish_one(strict, fleet_name, monkeypatch, "4")

    node.await_tally("1", "2", "3" * 40_000, "4")
    outcomes = ["applied"] * 4
    wait_until(lambda: [row["outcome"] for row in node.history("tally")] == outcomes, "the outcomes")
