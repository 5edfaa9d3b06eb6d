"""Fixtures for tests on real servers.

Everything started here is stopped here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.tls import Certificate, make_certificate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what shares a machine: pytest-xdist gives one worker the first, and takes away the last.

    Otherwise two workers would boot the same machine.
    """
    items.sort(key=lambda item: "machine" not in getattr(item, "fixturenames", ()))


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
