"""Fixtures for tests on real servers.

Everything started here is stopped here.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.tls import Certificate, make_certificate

SLOWEST: Final = (
    "test_fleet_faults",
    "test_trust_runbooks",
    "test_rotation_faults",
    "test_rollout_faults",
    "test_package",
)
"""Files that wait for minutes: each begins with another worker, so that none is waited for at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with what takes longest; the first one with what shares a machine.

    pytest-xdist cuts the list into a piece for each worker, and takes away from its end for one that is idle.
    Two workers would boot the same machine.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first: list[list[pytest.Item]] = [[] for _ in range(workers)]
    rest: list[pytest.Item] = []
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            first[0].append(item)
        elif item.path.stem in SLOWEST:
            first[(1 + SLOWEST.index(item.path.stem)) % workers].append(item)
        else:
            rest.append(item)
    left = len(items)
    items.clear()
    for number, begun in enumerate(first):
        share = max(len(begun), left // (workers - number))
        taken = share - len(begun)
        items += [*begun, *rest[:taken]]
        del rest[:taken]
        left -= share


@pytest.fixture
def directory() -> Iterator[Path]:
    """A new directory with a short path, as unix sockets want it."""
    with tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def consul() -> Iterator[ConsulAgent]:
    """One agent for the whole run: use names and key prefixes of your own, and do not stop it."""
    require("consul")
    with tempfile.TemporaryDirectory(prefix="agentd-consul-", ignore_cleanup_errors=True) as made:
        agent = ConsulAgent(Path(made)).start()
        yield agent
        agent.stop()


@pytest.fixture
def key_prefix(request: pytest.FixtureRequest) -> str:
    """A key prefix that no other test has; it ends in a slash."""
    return f"test/{re.sub('[^A-Za-z0-9_.-]', '-', request.node.name)}-{free_port()}/"


@pytest.fixture
def new_consul(directory: Path) -> Iterator[Callable[..., ConsulAgent]]:
    """Make and start private agents: `new_consul(node="node2", address="127.0.0.2", join=first)`."""
    require("consul")
    with ExitStack() as stack:

        def make(**options: Any) -> ConsulAgent:  # noqa: ANN401 - ConsulAgent's own options
            own = Path(tempfile.mkdtemp(prefix="consul-", dir=directory))
            agent = ConsulAgent(own, **options)
            stack.callback(agent.stop)
            return agent.start()

        yield make


@pytest.fixture(scope="session")
def certificate() -> Iterator[Certificate]:
    """The certificate that every nginx of the run shows."""
    require("openssl")
    with tempfile.TemporaryDirectory(prefix="agentd-tls-") as made:
        yield make_certificate(Path(made))


@pytest.fixture
def new_nginx(directory: Path, certificate: Certificate) -> Iterator[Callable[..., Nginx]]:
    """Make private nginx servers, not yet started: agentd or `seed_tree` makes the tree they include."""
    require("nginx")
    with ExitStack() as stack:

        def make(**options: Any) -> Nginx:  # noqa: ANN401 - Nginx's own options
            own = Path(tempfile.mkdtemp(prefix="nginx-", dir=directory))
            nginx = Nginx(own, certificate, **options)
            stack.callback(nginx.stop)
            return nginx

        yield make


@pytest.fixture
def new_agentd(directory: Path) -> Iterator[Callable[..., AgentdProcess]]:
    """Make daemons, not yet started: `new_agentd(configuration, status=(host, port))`.

    The configuration is the content of the YAML file, as a dict.
    """
    with ExitStack() as stack:

        def make(
            configuration: dict[str, Any],
            status: tuple[str, int],
            **options: Any,  # noqa: ANN401 - AgentdProcess's own options
        ) -> AgentdProcess:
            own = Path(tempfile.mkdtemp(prefix="agentd-", dir=directory))
            file = own / "agentd.yaml"
            file.write_text(yaml.safe_dump(configuration, sort_keys=False))
            daemon = AgentdProcess(file, own / "agentd.log", status, **options)
            stack.callback(daemon.stop)
            return daemon

        yield make


@pytest.fixture
def new_node(
    directory: Path, certificate: Certificate, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Node]]:
    """Make nodes, not yet started: `new_node(handlers=main_job())`; on the shared Consul agent by default."""
    require("nginx")
    with ExitStack() as stack:

        def make(consul: ConsulAgent | None = None, **options: Any) -> Node:  # noqa: ANN401 - Node's own options
            own = Path(tempfile.mkdtemp(prefix="n-", dir=directory))
            agent = consul or request.getfixturevalue("consul")
            node = Node(own, certificate, number=1, consul=agent, **options)
            stack.callback(node.stop)
            return node

        yield make


@pytest.fixture
def suffix() -> str:
    """Ends the names of this test's events, which no other test on the shared Consul agent then sees."""
    return f"-{free_port()}"
