"""`command` beside the real `consul watch`: the same script gets the same input for each type of watch."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.handler import Completed, Context, NginxOptions, TemporaryError
from agentd.process import run
from agentd.testing import HandlerHarness, event
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
from handlers.command import Command
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import PATIENCE, wait_until

SCRIPT = """\
#!/bin/sh
env > "$1.env"
cat > "$1.new"
mv "$1.new" "$1"
"""
RICH_SERVICE = {
    "Name": "watched", "ID": "watched-1", "Port": 80, "Address": "127.0.0.9", "Tags": ["prod", "a<b>&c"],
    "Meta": {"version": "1"}, "Weights": {"Passing": 5, "Warning": 2}, "EnableTagOverride": True,
    "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 81}},
    "Checks": [{"TTL": "1h", "Status": "passing", "Notes": "ü"}, {"TTL": "2h", "Status": "warning"}],
    "Connect": {"SidecarService": {}},
}  # fmt: skip
EXTERNAL_NODE = {
    "Node": "external", "Address": "192.0.2.1", "Service": {"Service": "external", "Port": 1},
    "Check": {
        "CheckID": "c", "Name": "c", "Status": "passing", "ServiceID": "external",
        "Definition": {"HTTP": "http://192.0.2.1", "Interval": "9m", "Timeout": "5s", "Header": {"A": ["b"]}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def agent(consul: ConsulAgent) -> Iterator[ConsulAgent]:
    """The shared agent with something of every type to watch."""
    consul.put("/v1/agent/service/register", RICH_SERVICE)
    consul.put("/v1/catalog/register", EXTERNAL_NODE)
    for name, value in {"watched/a": b"hello", "watched/empty": b"", "watched/b%3Cc%3E": b"\x00\xff"}.items():
        consul.kv_put(name, value)
    consul.fire("watched", b"a<b>&c")
    for name in ("watched", "watched-sidecar-proxy"):
        wait_until(partial(consul.get, f"/v1/health/service/{name}"), f"the service {name}")
    wait_until(lambda: any(one["Name"] == "watched" for one in consul.events()), "the event")
    yield consul
    consul.deregister("watched-1")
    consul.deregister("watched-1-sidecar-proxy")
    consul.put("/v1/catalog/deregister", {"Node": "external"})
    consul.kv_delete("watched/", recurse=True)


@pytest.fixture
def script(directory: Path) -> Path:
    """The handler script that both run: it keeps its input and its environment."""
    path = directory / "handler"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


def run_really(argv: Any, **options: Any) -> Completed:  # noqa: ANN401 (see handler.Run)
    """Run a program as the daemon does."""
    return run(argv, **{**options, "timeout": options.get("timeout") or 60})


def attempt(harness: HandlerHarness) -> Context:
    """The harness's context, but programs are really run."""
    made = harness._attempt()[0]
    return Context(
        handler="deploy", now=made.now, files=made.files, store=made.store, log=made.log, run=run_really,
        nginx=NginxOptions(), generation=3,
    )  # fmt: skip


def ours(agent: ConsulAgent, query: Query, argv: list[str]) -> None:
    """Fetch the newest change as a poller does and hand it to `command`."""
    client = ConsulClient(ConsulOptions(address=agent.url))
    try:
        change = query.fetch(client).changes[-1]
    finally:
        client.close()
    harness = HandlerHarness(Command, {"argv": argv})
    harness.handler.handle(change, attempt(harness))


@contextmanager
def theirs(agent: ConsulAgent, flags: list[str], argv: list[str], output: Path) -> Iterator[None]:
    """Let `consul watch` call the script once."""
    watch = subprocess.Popen(
        [shutil.which("consul") or "consul", "watch", f"-http-addr={agent.url}", *flags, *argv],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(output.exists, "consul watch to call its handler")
        yield
    finally:
        watch.kill()
        watch.wait(PATIENCE)


def normal(path: Path) -> Any:  # noqa: ANN401 (any JSON value)
    """The JSON in a file, with the tags of services sorted: Consul lists them in another order each time."""
    parsed = json.loads(path.read_bytes())
    return {name: sorted(tags) for name, tags in parsed.items()} if "consul" in (parsed or ()) else parsed


def environment(path: Path) -> dict[str, str]:
    """What the script saw."""
    return dict(
        line.split("=", 1) for line in path.with_suffix(".env").read_text().splitlines() if "=" in line
    )


@pytest.mark.parametrize(
    "flags,query",
    [
        (["-type=event", "-name=watched"], EventQuery()),
        (["-type=key", "-key=watched/a"], KeyQuery("watched/a")),
        (["-type=key", "-key=watched/empty"], KeyQuery("watched/empty")),
        (["-type=key", "-key=watched/none"], KeyQuery("watched/none")),
        (["-type=keyprefix", "-prefix=watched/"], KeyPrefixQuery("watched/")),
        (["-type=keyprefix", "-prefix=nothing/"], KeyPrefixQuery("nothing/")),
        (["-type=service", "-service=watched"], ServiceQuery("watched", passing=False)),
        (["-type=service", "-service=watched", "-passingonly=true"], ServiceQuery("watched", passing=True)),
        (
            ["-type=service", "-service=watched", "-tag=prod"],
            ServiceQuery("watched", tag="prod", passing=False),
        ),
        (["-type=service", "-service=external"], ServiceQuery("external", passing=False)),
        (
            ["-type=service", "-service=watched-sidecar-proxy"],
            ServiceQuery("watched-sidecar-proxy", passing=False),
        ),
        (["-type=services"], ServicesQuery()),
        (["-type=nodes"], NodesQuery()),
        (["-type=checks"], ChecksQuery()),
        (["-type=checks", "-service=watched"], ChecksQuery(service="watched")),
        (["-type=checks", "-state=warning"], ChecksQuery(state="warning")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_handler_of_consul_watch_gets_the_same(
    agent: ConsulAgent, script: Path, directory: Path, flags: list[str], query: Query
) -> None:
    """The same JSON and CONSUL_INDEX, but for the order of an instance's fields and of a service's tags."""
    watched, handled = directory / "watched", directory / "handled"

    def same() -> bool:
        """As soon as what earlier tests did is over in Consul, of which its handler is told again."""
        ours(agent, query, [str(script), str(handled)])
        listed = isinstance(query, ServiceQuery | ServicesQuery)
        alike = listed or handled.read_bytes() == watched.read_bytes()
        seen = [environment(path).get("CONSUL_INDEX") for path in (handled, watched)]
        return alike and seen[0] is not None and seen[0] == seen[1] and normal(handled) == normal(watched)

    with theirs(agent, flags, [str(script), str(watched)], watched):
        wait_until(same, "both to have got the same", pause=1.0)


def test_a_handler_gets_a_clean_environment(
    agent: ConsulAgent, script: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What agentd itself was given, such as a token, is not passed on."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret")
    handled = directory / "handled"

    ours(agent, KeyQuery("watched/a"), [str(script), str(handled)])

    seen = environment(handled)
    assert "CONSUL_HTTP_TOKEN" not in seen
    assert {"PATH", "AGENTD_HANDLER", "AGENTD_QUERY", "AGENTD_CHANGE_ID", "AGENTD_GENERATION"} <= set(seen)


def test_a_failing_program_is_tried_again_with_its_words() -> None:
    """The end of its output stands in the reason."""
    harness = HandlerHarness(Command, {"shell": "cat >/dev/null; echo cannot connect; exit 3"})

    with pytest.raises(TemporaryError, match=r"(?s)status 3.*cannot connect"):
        harness.handler.handle(event("deploy", b"x"), attempt(harness))


def test_a_program_that_hangs_is_ended_with_its_children(directory: Path) -> None:
    """The whole process group."""
    alive = directory / "pid"
    harness = HandlerHarness(Command, {"shell": f"sleep 600 & echo $! > {alive}; wait", "timeout": "5s"})

    with pytest.raises(TemporaryError, match="timed out after"):
        harness.handler.handle(event("deploy"), attempt(harness))

    child = Path(f"/proc/{alive.read_text().strip()}/cmdline")
    wait_until(lambda: not child.exists() or not child.read_bytes(), "the child to be ended")
