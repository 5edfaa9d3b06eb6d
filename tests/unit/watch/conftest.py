"""Fixtures of the tests of the client: a scripted agent on a unix socket, and options that point to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.unit.watch.scripted import ScriptedAgent


@pytest.fixture
def agent() -> Iterator[ScriptedAgent]:
    """A scripted agent; fill `agent.script` with replies."""
    # A short path, as unix sockets want it.
    with tempfile.TemporaryDirectory(prefix="agentd-") as directory:
        agent = ScriptedAgent(Path(directory) / "consul.sock")
        yield agent
        agent.stop()


@pytest.fixture
def new_client(agent: ScriptedAgent) -> Iterator[Callable[..., ConsulClient]]:
    """Make clients of the scripted agent: `new_client(token_file=...)`. They are closed at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> ConsulClient:  # noqa: ANN401 - ConsulOptions' own
            client = ConsulClient(ConsulOptions(address=agent.address, **options))
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def client(new_client: Callable[..., ConsulClient]) -> ConsulClient:
    """A client of the scripted agent, without a token."""
    return new_client()
