"""A Consul that behaves as newer releases do: a proxy before the real one, and what agentd makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest

from agentd.errors import ConsulLimited, ConsulRefused
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import Poller
from agentd.watch.queries import EventQuery, KeyQuery, ServiceQuery
from agentd.watch.query import Snapshot
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.newer_consul import Points
from tests.servers.waiting import PATIENCE, wait_until

NewConsul = Callable[..., ConsulAgent]
NewNode = Callable[..., Node]
NewClient = Callable[..., ConsulClient]


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Make clients; they are closed at the end."""
    with ExitStack() as stack:

        def make(agent: ConsulAgent, token: str | None = None) -> ConsulClient:
            options = ConsulOptions(address=agent.url).typed(token=token, verify=True)
            return stack.enter_context(closing(ConsulClient(options)))

        yield make


@contextmanager
def polling(poller: Poller) -> Iterator[Poller]:
    """Let it run meanwhile."""
    poller.start()
    try:
        yield poller
    finally:
        poller.close()
        poller.join(PATIENCE)


def test_what_a_newer_agent_refuses(new_consul: NewConsul, new_client: NewClient) -> None:
    """A large event, a large value, a key with other characters: refused, and nothing else is."""
    agent = new_consul(newer=Points())
    client = new_client(agent)

    with pytest.raises(ConsulRefused, match=r"413.*100 bytes"):
        client.fire("large", b"x" * 101)
    with pytest.raises(ConsulRefused, match=r"413.*524288 bytes"):
        client.send("PUT", "/v1/kv/a", body=b"x" * 600_000)
    with pytest.raises(ConsulRefused, match=r"400.*Invalid key name"):
        client.send("PUT", "/v1/kv/a b", body=b"x")
    assert client.fire("small", b"x" * 100)
    assert client.send("PUT", "/v1/kv/a/B_c-1.2", body=b"x" * 500_000).status == 200
    assert client.self_info().version == "1.22.1"


def test_a_block_ends_with_the_change(new_consul: NewConsul, new_client: NewClient) -> None:
    """Through the proxy as without it, on many connections at once."""
    agent = new_consul(newer=Points(limit_every=0))
    agent.kv_put("k", b"a")
    before = KeyQuery("k").fetch(new_client(agent)).index

    def wait_for_change(client: ConsulClient) -> bytes | None:
        (change,) = KeyQuery("k").fetch(client, before).changes
        return change.value if hasattr(change, "value") else None

    clients = [new_client(agent) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(wait_for_change, client) for client in clients]
        agent.kv_put("k", b"b")
        assert {one.result(PATIENCE) for one in waiting} == {b"b"}


def test_a_limit_on_connections_is_waited_out(new_consul: NewConsul, new_client: NewClient) -> None:
    """The poller says that it is limited, not that Consul is away, and goes on once there is room."""
    agent = new_consul(newer=Points(connections=1, limit_every=0))
    agent.kv_put("k", b"a")
    other = new_client(agent)
    assert other.leader()  # and keeps its connection
    with pytest.raises(ConsulLimited, match="too many concurrent connections"):
        new_client(agent).leader()
    taken: list[Snapshot] = []
    options = ConsulOptions(address=agent.url)
    stop = threading.Event()
    with polling(Poller(KeyQuery("k"), lambda: ConsulClient(options), taken.append, stop=stop)) as poller:
        wait_until(lambda: poller.status.limited, "the limit to be told")
        assert poller.status.error is None
        other.close()
        wait_until(lambda: taken, "the key")
        wait_until(lambda: poller.status.limited is None, "the limit to be over")


@pytest.mark.parametrize("retry_after", ["1", ""])
def test_a_rate_limit_is_waited_out(new_consul: NewConsul, retry_after: str) -> None:
    """Every second poll is refused, with 429 and 503 in turn; each value arrives all the same."""
    agent = new_consul(newer=Points(limit_every=2, retry_after=retry_after))
    agent.kv_put("k", b"0")
    taken: list[Snapshot] = []
    options = ConsulOptions(address=agent.url)
    stop = threading.Event()
    with polling(Poller(KeyQuery("k"), lambda: ConsulClient(options), taken.append, stop=stop)) as poller:
        for number in range(1, 5):
            wait_until(lambda n=number: len(taken) >= n, "the value")  # type: ignore[misc]
            assert poller.status.error is None
            agent.kv_put("k", str(number).encode())
    assert agent.proxy
    assert agent.proxy.limited >= 2


def test_named_ports_of_a_service(new_consul: NewConsul, new_client: NewClient) -> None:
    """Port is 0, and the default one of several counts."""
    agent = new_consul(newer=Points())
    client = new_client(agent)
    ports = [{"Name": "http", "Port": 8080, "Default": True}, {"Name": "admin", "Port": 9090}]
    service = {"Name": "web", "Ports": ports, "Address": "127.0.0.1"}
    client.send("PUT", "/v1/agent/service/register", body=json.dumps(service).encode())
    wait_until(lambda: not ServiceQuery("web").fetch(client).empty, "the service to be in the catalog")

    answer = client.get("/v1/health/service/web")

    assert (answer.raw[0]["Service"]["Port"], answer.raw[0]["Service"]["Ports"]) == (0, ports)


def test_servers_that_disagree_about_an_index_harm_nothing(new_consul: NewConsul) -> None:
    """Every second connection is to a server whose index is ahead; each state is delivered once."""
    agent = new_consul(newer=Points(stale_skew=5, limit_every=0))
    agent.register("web", 8080)
    taken: list[Snapshot] = []
    options = ConsulOptions(address=agent.url, wait=2.0)
    stop = threading.Event()
    with polling(Poller(ServiceQuery("web"), lambda: ConsulClient(options), taken.append, stop=stop)):
        wait_until(lambda: taken, "the service")
        assert agent.proxy
        for port in (8081, 8082, 8083):
            agent.proxy.stop()  # the next connection is to the other server
            agent.proxy.start()
            agent.register("web", port)
            wait_until(lambda p=port: taken[-1].changes[0].raw[0]["Service"]["Port"] == p, "the change")  # type: ignore[misc]
    found = [one.changes[0].raw[0]["Service"]["Port"] for one in taken]
    assert found == [8080, 8081, 8082, 8083]


def test_who_filtered_is_told_to_those_with_a_token(new_consul: NewConsul, new_client: NewClient) -> None:
    """And to nobody else."""
    agent = new_consul(newer=Points(), acl=True)
    agent.fire("secret")
    wait_until(agent.events, "the event")
    token = agent.make_token('key_prefix "" { policy = "read" }')

    assert EventQuery().fetch(new_client(agent, token)).answer.filtered_by_acls
    assert not EventQuery().fetch(new_client(agent)).answer.filtered_by_acls
    assert not EventQuery().fetch(new_client(agent, agent.token)).answer.filtered_by_acls


def test_commands_know_what_the_release_changes(new_consul: NewConsul, new_node: NewNode) -> None:
    """`fire` refuses what the agent would, and says what to use instead; `check` names release and limits."""
    agent = new_consul(newer=Points())
    node = new_node(agent, handlers=main_job()).start()

    large = node.agentd.command("fire", BLACKLIST_EVENT, "add 198.51.100.7 10m # " + "x" * 100)
    small = node.agentd.command("fire", BLACKLIST_EVENT, "add 198.51.100.7 10m")
    checked = node.agentd.command("check").stdout

    assert large.returncode == 1
    assert "Consul 1.22.1 takes at most 100" in large.stderr
    assert "kv:PATH" in large.stderr
    assert node.outcome(small.stdout.strip())["outcome"] == "applied"
    assert "Consul 1.22.1" in checked
    assert "at most 100 bytes" in checked
