"""The client and the queries against a real Consul agent."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
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
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewClient = Callable[..., ConsulClient]


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Make clients; they are closed at the end."""
    with ExitStack() as stack:

        def make(address: str, **options: Any) -> ConsulClient:  # noqa: ANN401 - ConsulOptions' own
            return stack.enter_context(closing(ConsulClient(ConsulOptions(address=address, **options))))

        yield make


@pytest.fixture(scope="module")
def strict() -> Iterator[ConsulAgent]:
    """An agent that denies by default."""
    require("consul")
    with tempfile.TemporaryDirectory(prefix="agentd-acl-", ignore_cleanup_errors=True) as directory:
        agent = ConsulAgent(Path(directory), acl=True)
        try:
            yield agent.start()
        finally:
            agent.stop()


def consul_watch(agent: ConsulAgent, *arguments: str) -> Any:  # noqa: ANN401 - any JSON
    """What `consul watch` prints when it has no handler."""
    argv = ["consul", "watch", f"-http-addr={agent.url}", *arguments]
    return json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=120).stdout)


def without_definitions(raw: Any) -> Any:  # noqa: ANN401 - any JSON
    """Leave out the checks' Definition: the CLI fills an empty one with zero values of its own version."""
    if isinstance(raw, list):
        return [without_definitions(one) for one in raw]
    if isinstance(raw, dict):
        return {name: without_definitions(value) for name, value in raw.items() if name != "Definition"}
    return raw


@pytest.mark.parametrize(
    "query,arguments",
    [
        (KeyQuery("form/a"), ["-type=key", "-key=form/a"]),
        (KeyQuery("form/empty"), ["-type=key", "-key=form/empty"]),
        (KeyPrefixQuery("form/"), ["-type=keyprefix", "-prefix=form/"]),
        (ServicesQuery(), ["-type=services"]),
        (NodesQuery(), ["-type=nodes"]),
        (ServiceQuery("form"), ["-type=service", "-service=form", "-passingonly=true"]),
        (ServiceQuery("form", tag="none"), ["-type=service", "-service=form", "-tag=none"]),
        (ChecksQuery(), ["-type=checks"]),
        (ChecksQuery(service="form"), ["-type=checks", "-service=form"]),
        (ChecksQuery(state="passing"), ["-type=checks", "-state=passing"]),
    ],
    ids=str,
)
def test_a_state_has_the_form_of_consul_watch(
    consul: ConsulAgent, new_client: NewClient, query: Query, arguments: list[str]
) -> None:
    """Value by value, what a handler of `consul watch` reads from its standard input."""
    consul.kv_put("form/a", b"\xff\x00")
    consul.kv_put("form/empty", b"")
    consul.register("form", 80)
    client = new_client(consul.url)
    wait_until(lambda: not ServiceQuery("form").fetch(client).empty, "the service to be in the catalog")

    def same() -> bool:
        """As soon as what earlier tests did is over in Consul."""
        (change,) = query.fetch(client).changes
        return bool(without_definitions(change.raw) == without_definitions(consul_watch(consul, *arguments)))

    wait_until(same, "both to show the same")


def test_a_missing_key_has_the_form_of_consul_watch(consul: ConsulAgent, new_client: NewClient) -> None:
    """Null, for a key and for a prefix: `consul watch` hands `null` to its handler."""
    client = new_client(consul.url)
    assert [q.fetch(client).changes[0].raw for q in (KeyQuery("no"), KeyPrefixQuery("no"))] == [None, None]


def test_events_have_the_form_of_consul_watch(consul: ConsulAgent, new_client: NewClient) -> None:
    """Each event is one object of its list."""
    client = new_client(consul.url)
    identity = client.fire("form", b"\xff\x00")
    wait_until(lambda: any(one.id == identity for one in EventQuery().fetch(client).changes), "the event")
    ours = [change.raw for change in EventQuery().fetch(client).changes if change.raw["Name"] == "form"]
    assert ours == consul_watch(consul, "-type=event", "-name=form")
    assert (ours[-1]["ID"], ours[-1]["Payload"]) == (identity, "/wA=")


def test_an_event_that_is_too_large_is_an_error(consul: ConsulAgent, new_client: NewClient) -> None:
    """Older agents answer 500 above 512 bytes."""
    with pytest.raises((ConsulUnavailable, ConsulRefused), match="event"):
        new_client(consul.url).fire("form", b"x" * 600)


def test_a_blocking_query_returns_with_the_change(
    consul: ConsulAgent, new_client: NewClient, key_prefix: str
) -> None:
    """A newer index ends the wait."""
    client, query = new_client(consul.url, wait=20.0), KeyQuery(key_prefix + "k")
    before = query.fetch(client)
    consul.kv_put(key_prefix + "k", b"a")
    after = query.fetch(client, before.index)
    assert after.index > before.index
    assert not after.empty


def test_the_agent_tells_who_it_is(consul: ConsulAgent, new_client: NewClient) -> None:
    """Node, datacenter, leader."""
    client = new_client(consul.url)
    info = client.self_info()
    assert (info.node, info.datacenter, info.server) == (consul.node, "dc1", True)
    assert client.leader().startswith(consul.address)


def test_without_acls_there_is_no_right_to_have(consul: ConsulAgent, new_client: NewClient) -> None:
    """None is neither yes nor no."""
    assert new_client(consul.url).authorized("key", "read", "a") is None


@pytest.mark.parametrize(
    "rules,may",
    [
        ("", []),
        ('key_prefix "a/" { policy = "read" }', [("key", "a/"), ("key", "a/b")]),
        ('event "deploy" { policy = "read" }', [("event", "deploy")]),
        ('event_prefix "" { policy = "read" }', [("event", ""), ("event", "deploy")]),
        ('service_prefix "" { policy = "read" }', [("service", ""), ("service", "web")]),
        ('node_prefix "" { policy = "read" }', [("node", "")]),
    ],
)
def test_a_right_is_proved_by_asking(
    strict: ConsulAgent, new_client: NewClient, tmp_path: Path, rules: str, may: list[tuple[str, str]]
) -> None:
    """Under ACL deny, for tokens with one rule each; "" means all names."""
    file = tmp_path / "token"
    file.write_text(strict.make_token(rules))
    client = new_client(strict.url, token_file=file)
    asked = [
        ("key", "a/"),
        ("key", "a/b"),
        ("key", ""),
        ("event", ""),
        ("event", "deploy"),
        ("service", ""),
        ("service", "web"),
        ("node", ""),
    ]
    assert [one for one in asked if client.authorized(one[0], "read", one[1])] == may


def test_without_a_token_nothing_may_be_read(strict: ConsulAgent, new_client: NewClient) -> None:
    """Events are an empty list, keys a refusal that names the remedy."""
    client = new_client(strict.url)
    assert client.authorized("event", "read", "") is False
    assert EventQuery().fetch(client).empty
    with pytest.raises(ConsulRefused, match=r"Permission denied.*token_file"):
        KeyQuery("a").fetch(client)


def test_a_token_replaced_in_its_file_is_used_after_a_403(
    strict: ConsulAgent, new_client: NewClient, tmp_path: Path
) -> None:
    """A token that Consul does not know is refused, until its file holds one that it knows."""
    file = tmp_path / "token"
    file.write_text("22222222-2222-2222-2222-222222222222")
    client = new_client(strict.url, token_file=file)
    with pytest.raises(ConsulRefused, match="ACL not found"):
        NodesQuery().fetch(client)
    assert strict.token
    file.write_text(strict.token)
    assert not NodesQuery().fetch(client).empty


def test_a_unix_socket_works(
    directory: Path, new_consul: Callable[..., ConsulAgent], new_client: NewClient
) -> None:
    """For agents that do not listen on TCP for clients; beside it the tests' own access stays."""
    path = directory / "consul.sock"
    agent = new_consul(extra={"addresses": {"http": f"127.0.0.1 unix://{path}"}})
    assert new_client(f"unix://{path}").self_info().node == agent.node


class Pki:
    """A CA, and a certificate for 127.0.0.1 that serves server and client alike."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        ca_key, request, extra = (directory / name for name in ("ca.key", "request.pem", "extra.cnf"))
        extra.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
        sign = ["openssl", "x509", "-req", "-CAcreateserial", "-days", "2", "-extfile", str(extra)]
        for argv in (
            [*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", str(ca_key), "-out", str(self.ca)],
            [*new, "-subj", "/CN=agent", "-keyout", str(self.key), "-out", str(request)],
            [
                *sign,
                "-in",
                str(request),
                "-CA",
                str(self.ca),
                "-CAkey",
                str(ca_key),
                "-out",
                str(self.certificate),
            ],
        ):
            subprocess.run(argv, capture_output=True, check=True, timeout=120)


def test_tls_needs_the_right_ca_name_and_client_certificate(directory: Path, new_client: NewClient) -> None:
    """One agent, asked in the right way and in three wrong ones."""
    require("consul")
    require("openssl")
    pki, port = Pki(directory), free_port()
    other = directory / "other"
    other.mkdir()
    agent = ConsulAgent(directory)
    file = directory / "consul.json"
    settings = json.loads(file.read_text())
    settings["ports"]["https"] = port
    settings |= {"ca_file": str(pki.ca), "cert_file": str(pki.certificate), "key_file": str(pki.key)}
    file.write_text(json.dumps(settings | {"verify_incoming_https": True}))
    try:
        agent.start()
        ours = {"ca_file": pki.ca, "cert_file": pki.certificate, "key_file": pki.key}
        assert new_client(f"https://127.0.0.1:{port}", **ours).self_info().node == agent.node
        for address, options in (
            (f"https://localhost:{port}", ours),
            (f"https://127.0.0.1:{port}", ours | {"ca_file": Pki(other).ca}),
            (f"https://127.0.0.1:{port}", {"ca_file": pki.ca}),
        ):
            with pytest.raises(
                ConsulUnavailable, match=r"check consul\.ca_file, consul\.cert_file and consul\.address"
            ):
                new_client(address, **options).leader()
        named = new_client(f"https://localhost:{port}", **ours, tls_server_name="127.0.0.1")
        assert named.self_info().node == agent.node
        unchecked = ConsulOptions(
            address=f"https://localhost:{port}", cert_file=pki.certificate, key_file=pki.key
        )
        with closing(ConsulClient(unchecked.typed(token=None, verify=False))) as client:
            assert client.self_info().node == agent.node
    finally:
        agent.stop()
