"""docs/protocol.md: its programs write to a log that agentd reads, and read one that agentd wrote."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentd.fleet.head import Head
from tests.pages import ROOT, of
from tests.servers.consul import ConsulAgent
from tests.servers.followers import open_log, publish
from tests.servers.ports import free_port

PAGE = ROOT / "docs" / "protocol.md"
NAME = "ip-blacklist"


@pytest.fixture
def program(consul: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 (modules)
    """Imports a program of the page."""
    for block in of("python", page=PAGE):
        (tmp_path / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.url)
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[str]:
    """A fleet of this test's own."""
    name = f"protocol-{free_port()}"
    yield name
    consul.kv_delete(f"agentd/{name}/", recurse=True)


def test_another_program_publishes(program: Any, consul: ConsulAgent, fleet: str) -> None:  # noqa: ANN401
    """It begins a log, and goes on with one that agentd wrote to; agentd reads all of it, in order."""
    other = program("publish_message")

    first = other.publish(fleet, NAME, b"add 198.51.100.1")
    publish(consul, fleet, NAME, "add 198.51.100.2")
    last = other.publish(fleet, NAME, b"add 198.51.100.3")

    with open_log(consul, fleet) as log:
        head = log.head(NAME) or Head("all")
        read = [one for reading in log.after(NAME, 0, head) for one in reading.messages]
    assert [one.body for one in read] == [b"add 198.51.100.%d" % number for number in (1, 2, 3)]
    assert (read[0].num, read[2].num, read[2].prev) == (first, last, read[1].num)
    assert (head.oldest, head.newest, head.count) == (first, last, 3)


def test_another_program_follows(program: Any, consul: ConsulAgent, fleet: str) -> None:  # noqa: ANN401
    """It reads what agentd wrote, in order and each message once, also where the head lists too few."""
    other = program("follow_log")
    payloads = [f"add 198.51.100.{number}" for number in range(70)]
    publish(consul, fleet, NAME, *payloads)

    read = other.news(fleet, NAME, 0)
    publish(consul, fleet, NAME, "add 203.0.113.1")
    later = other.news(fleet, NAME, read[-1]["num"])

    assert [_payload(one) for one in read] == payloads
    assert [_payload(one) for one in later] == ["add 203.0.113.1"]
    assert other.news(fleet, NAME, later[-1]["num"]) == []


def _payload(message: dict[str, str]) -> str:
    return base64.b64decode(message["body"]).decode()
