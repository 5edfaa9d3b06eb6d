"""The examples as they stand: each passes `agentd check`, starts in real nginx, and does what it promises."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from agentd.cli import main
from tests.servers.backends import start_backend
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.example import Example
from tests.servers.waiting import wait_until

NewExample = Callable[..., Example]
LOOPBACK = ["--networks", "127.0.0.0/8"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Stops what it was given, last first."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def backends(stack: ExitStack) -> list[str]:
    """Three servers, in the order of their ports."""
    made = [start_backend(stack) for _ in range(3)]
    return sorted(made, key=lambda server: int(server.rpartition(":")[2]))


@pytest.fixture
def register(consul: ConsulAgent, stack: ExitStack) -> Callable[..., None]:
    """Register servers of a service for the time of the test."""

    def add(service: str, servers: list[str], *tags: str) -> None:
        for server in servers:
            host, _, port = server.rpartition(":")
            identity = f"{service}-{port}"
            check = {"TTL": "1h", "Status": "passing"}
            consul.put(
                "/v1/agent/service/register",
                {
                    "Name": service,
                    "ID": identity,
                    "Address": host,
                    "Port": int(port),
                    "Tags": list(tags),
                    "Check": check,
                },
            )
            stack.callback(consul.deregister, identity)

    return add


@pytest.fixture
def new_example(consul: ConsulAgent, directory: Path, stack: ExitStack) -> NewExample:
    """Start an example; `agentd check` finds nothing in its way, before and after."""

    def start(name: str, needs: str = "nginx", listen: str = "127.0.0.1:8080") -> Example:
        require(needs)
        example = Example(directory / "e", name, consul, listen=listen)
        assert main(["check", "--config", str(example.configuration)]) == 0
        example.start(stack)
        # An nginx that started beside a commit may have read the generation before; agentd looks every 5 s.
        check = ["check", "--config", str(example.configuration)]
        wait_until(lambda: main(check) == 0, "nginx to serve what was committed, and all to be well")
        return example

    return start


def served(example: Example, servers: list[str], path: str = "/") -> None:
    """Wait until exactly these answer."""
    wait_until(
        lambda: {example.get(path) for _ in range(2 * len(servers) + 2)} == set(servers),
        f"{servers} to be served",
        pause=0.1,
    )


def test_internal_api(
    new_example: NewExample, backends: list[str], register: Callable[..., None], consul: ConsulAgent
) -> None:
    """The instances with the tag that pass; one that fails goes, and the last one stays."""
    register("api-internal", backends[:2], "production")
    register("api-internal", backends[2:], "staging")
    example = new_example("internal-api")
    served(example, backends[:2])
    consul.set_status(f"api-internal-{backends[0].rpartition(':')[2]}", "critical")
    served(example, backends[1:2])


def test_application_down_and_up(
    new_example: NewExample,
    stack: ExitStack,
    backends: list[str],
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the commands in its comment, on a real nginx with Lua: without a reload, since agentd is frozen."""
    register("application", backends)
    example = new_example("application", "nginx-lua")
    register("application-lb", [f"127.0.0.1:{example.interface}"])
    served(example, backends)
    upstream = example.conf / "agentd" / "current" / "upstreams" / "application.conf"
    wait_until(lambda: all(server in upstream.read_text() for server in backends), "the file to have them")
    wait_until(lambda: "agentd_reload_pending 0.0" in example.agentd.get("/metrics")[1], "the last reload")
    stack.callback(example.agentd.process.send, signal.SIGCONT)
    example.agentd.process.send(signal.SIGSTOP)
    log = example.directory / "log" / "error.log"
    reloads = log.read_text().count("reconfiguring")
    where = ["--upstream", "application", "--on", "application-lb", "--config", str(example.configuration)]
    where += LOOPBACK

    assert main(["upstream", "down", backends[0], *where]) == 0
    assert {example.get() for _ in range(12)} == set(backends[1:])
    capsys.readouterr()
    assert main(["upstream", "list", "--json", *where]) == 0
    listed = json.loads(capsys.readouterr().out)["balancers"][0]["servers"]
    assert [one["server"] for one in listed if one["down"]] == backends[:1]

    assert main(["upstream", "weight", backends[1], "5", *where]) == 0
    assert main(["upstream", "up", backends[0], *where]) == 0
    assert {example.get() for _ in range(12)} == set(backends)
    assert log.read_text().count("reconfiguring") == reloads


def test_application_whose_nginx_hangs(
    new_example: NewExample,
    backends: list[str],
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stopped worker accepts and says nothing: it is named in bounded time, and nothing is changed."""
    register("application", backends)
    example = new_example("application", "nginx-lua")
    register("application-lb", [f"127.0.0.1:{example.interface}"])
    served(example, backends)
    where = ["--upstream", "application", "--on", "application-lb", "--config", str(example.configuration)]
    where += LOOPBACK
    children = Path(f"/proc/{example.nginx.pid}/task/{example.nginx.pid}/children").read_text().split()
    workers = [int(pid) for pid in children]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert main(["upstream", "down", backends[0], "--timeout", "500ms", *where]) == 1
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 60
    assert f"(127.0.0.1:{example.interface}): timed out after 0.5 s" in capsys.readouterr().err
    served(example, backends)


def test_application_rolling(
    new_example: NewExample, backends: list[str], register: Callable[..., None], tmp_path: Path
) -> None:
    """Each server is out of use while the command runs, and no request fails meanwhile."""
    register("application", backends)
    example = new_example("application", "nginx-lua")
    register("application-lb", [f"127.0.0.1:{example.interface}"])
    served(example, backends)
    url = f"http://127.0.0.1:{example.port}/"
    require("curl")
    script = f"for n in 1 2 3 4 5 6; do curl -sf {url} >> {tmp_path}/$1 || echo bad >> {tmp_path}/bad; done"
    argv = ["rolling", "--config", str(example.configuration), "--upstream", "application"]
    argv += ["--on", "application-lb", "--servers", "application", *LOOPBACK]
    assert main([*argv, "--", "/bin/sh", "-c", script, "sh", "{port}"]) == 0
    for server in backends:
        seen = (tmp_path / server.rpartition(":")[2]).read_text()
        assert server not in seen
        assert all(other in seen for other in backends if other != server)
    assert not (tmp_path / "bad").exists()
    served(example, backends)


def test_search_keeps_words_with_their_server(
    new_example: NewExample, backends: list[str], register: Callable[..., None], consul: ConsulAgent
) -> None:
    """When a server goes, only its words move."""
    register("search", backends)
    example = new_example("search", "nginx-lua")
    words = [f"/search?q=word{number}" for number in range(30)]
    wait_until(lambda: {example.get(word) for word in words} == set(backends), "all servers", pause=0.1)
    before = {word: example.get(word) for word in words}
    # A server that was slow once has its words back soon.
    wait_until(lambda: {word: example.get(word) for word in words} == before, "the same again", pause=0.1)

    consul.set_status(f"search-{backends[0].rpartition(':')[2]}", "critical")
    left = set(backends[1:])
    wait_until(lambda: {example.get(word) for word in words} == left, "the server to go", pause=0.1)
    others = {word: server for word, server in before.items() if server != backends[0]}
    wait_until(lambda: {word: example.get(word) for word in others} == others, "the others' words", pause=0.1)


def test_search_goes_on_with_the_next_server(
    new_example: NewExample, backends: list[str], register: Callable[..., None]
) -> None:
    """One that nobody has noticed to be dead costs no request."""
    register("search", [*backends, "127.0.0.1:1"])
    example = new_example("search", "nginx-lua")
    words = [f"/search?q=word{number}" for number in range(30)]
    wait_until(lambda: {example.get(word) for word in words} == set(backends), "all servers", pause=0.1)
    assert "127.0.0.1:1" in (example.conf / "agentd" / "current" / "upstreams" / "search.conf").read_text()


def test_push_gateway(
    new_example: NewExample, backends: list[str], register: Callable[..., None], consul: ConsulAgent
) -> None:
    """Connections go to the instances, and one that stands outlives a reload."""
    register("push-gateway", backends[:2])
    example = new_example("push-gateway", "nginx-stream", listen="127.0.0.1:9091")
    served(example, backends[:2])
    with closing(HTTPConnection("127.0.0.1", example.port, timeout=60)) as standing:
        first = _ask(standing)
        consul.set_status(f"push-gateway-{backends[0].rpartition(':')[2]}", "critical")
        # The grace of 10 s must not be waited for here: a new instance is taken over at once.
        register("push-gateway", backends[2:])
        wait_until(lambda: example.get() == backends[2], "the new instance", pause=0.2)
        assert _ask(standing) == first


def _ask(connection: HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()
