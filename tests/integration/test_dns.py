"""The example of Consul's DNS round robin: what a real agent answers to dig, and what nginx makes of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.backends import start_backend
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.example import ROOT, Example
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NAME = "production.api-internal.service.consul"
ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")


@pytest.fixture
def agent(new_consul: Callable[..., ConsulAgent]) -> ConsulAgent:
    """An agent with the example's DNS settings, on a port of its own, and three instances."""
    require("dig")
    extra = json.loads((ROOT / "config" / "examples" / "consul-dns" / "consul.json").read_text())
    dns = free_port()
    agent = new_consul(dns=dns, extra={"dns_config": extra["dns_config"]})
    for number, address in enumerate(ADDRESSES):
        register(agent, f"api{number}", address, "production" if number < 2 else "staging")
    known = "/v1/health/service/api-internal"
    wait_until(lambda: len(agent.get(known)) == len(ADDRESSES), "the catalog to know all of them")
    return agent


def register(agent: ConsulAgent, identity: str, address: str, tag: str) -> None:
    """One instance of the service."""
    service = {"Name": "api-internal", "ID": identity, "Address": address, "Port": 8000, "Tags": [tag]}
    agent.put("/v1/agent/service/register", service | {"Check": {"TTL": "1h", "Status": "passing"}})


def dig(agent: ConsulAgent, *words: str) -> list[str]:
    """The lines of a short answer, in their order."""
    argv = [
        "dig",
        "+short",
        "+time=20",
        "+tries=2",
        f"@{agent.address}",
        "-p",
        str(agent.ports["dns"]),
        *words,
    ]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")[
        :-1
    ]


def test_name_is_that_of_the_instances_with_the_tag(agent: ConsulAgent) -> None:
    """And the service's own name is that of all."""
    assert set(dig(agent, NAME)) == set(ADDRESSES[:2])
    assert set(dig(agent, "api-internal.service.consul")) == set(ADDRESSES)


def test_answers_come_in_turn(agent: ConsulAgent) -> None:
    """Whoever takes the first address is spread over all."""
    assert {dig(agent, NAME)[0] for _ in range(20)} == set(ADDRESSES[:2])


def test_only_who_passes_is_told(agent: ConsulAgent) -> None:
    """A warning counts as well with `only_passing`."""
    agent.set_status("api0", "warning")
    wait_until(lambda: dig(agent, NAME) == [ADDRESSES[1]], "one address")
    agent.set_status("api0", "passing")
    wait_until(lambda: len(dig(agent, NAME)) == 2, "two addresses")


def test_port_is_in_the_srv_record_only(agent: ConsulAgent) -> None:
    """Which nginx does not ask for: so the example names a port."""
    assert {line.split()[2] for line in dig(agent, NAME, "SRV")} == {"8000"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Stops what it was given, last first."""
    with ExitStack() as made:
        yield made


def test_nginx_serves_by_that_name(agent: ConsulAgent, directory: Path, stack: ExitStack) -> None:
    """Both instances, and after one fails the other alone, without a reload."""
    require("nginx")
    port = int(start_backend(stack, ADDRESSES[0]).rpartition(":")[2])
    start_backend(stack, ADDRESSES[1], port)
    example = Example(directory / "e", "consul-dns", agent, dns=agent.ports["dns"])
    conf = example.conf / "nginx.conf"
    conf.write_text(conf.read_text().replace("$internal:8000", f"$internal:{port}").replace("=5s", "=1s"))
    example.start(stack)
    both = {f"{address}:{port}" for address in ADDRESSES[:2]}
    wait_until(lambda: {example.get() for _ in range(8)} == both, "both to be served", pause=0.1)
    agent.set_status("api1", "critical")
    left = {f"{ADDRESSES[0]}:{port}"}
    wait_until(lambda: {example.get() for _ in range(8)} == left, "the one that is left", pause=0.2)
