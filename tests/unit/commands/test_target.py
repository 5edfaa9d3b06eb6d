"""Whom a message is for, and whether that is anybody."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from agentd.commands.parser import Parser
from agentd.commands.target import add_target_arguments, check_target, described, matching
from agentd.errors import ConfigError, ConsulRefused
from agentd.fleet.keys import Keys
from agentd.watch.client import Answer, ConsulClient

CATALOGUE = [{"Node": "web1"}, {"Node": "web2"}, {"Node": "db1"}]
SERVICES = {"nginx": ["edge", "v2"], "consul": []}
NGINX = [{"Node": "web1", "ServiceTags": ["edge"]}, {"Node": "web2", "ServiceTags": ["v2"]}, {"Node": "db1"}]


class Catalogue:
    """Answers as Consul does, with documents of these nodes."""

    def __init__(self, documents: Iterable[str], denied: str = "") -> None:
        self._denied = denied
        self._answers: dict[str, Any] = {
            "/v1/kv/agentd/edge/nodes/": [f"agentd/edge/nodes/{node}" for node in documents],
            "/v1/catalog/nodes": CATALOGUE,
            "/v1/catalog/services": SERVICES,
            "/v1/catalog/service/nginx": NGINX,
        }

    def get(self, path: str, *_: object) -> Answer:
        """Read once."""
        return Answer(200, 7, [] if path == self._denied else self._answers[path])

    def authorized(self, resource: str, *_: str) -> bool:
        """Whether the token may read all of that."""
        return resource not in self._denied


def parsed(*words: str) -> Namespace:
    """The arguments of a command that has a target."""
    parser = Parser()
    add_target_arguments(parser)
    return parser.parse_args(words)


@dataclass(frozen=True)
class Target:
    """A target."""

    node: str = ""
    service: str = ""
    tag: str = ""


def found(*words: str, documents: Iterable[str] = ()) -> list[str] | None:
    """The nodes that match."""
    typed = parsed(*words)
    target = Target(typed.node or "", typed.service or "", typed.tag or "")
    return matching(target, Keys("edge"), cast("ConsulClient", Catalogue(documents)))


def test_without_a_target_it_is_for_all() -> None:
    """Consul is not even asked."""
    assert found() is None


@pytest.mark.parametrize(
    "words,nodes",
    [
        (["--node", "^web"], ["web1", "web2"]),
        (["--node", "1"], ["db1", "web1"]),
        (["--node", "^eb"], []),
        (["--service", "ngin"], ["db1", "web1", "web2"]),
        (["--service", "nginx", "--tag", "^edge$"], ["web1"]),
        (["--service", "nginx", "--node", "2"], ["web2"]),
        (["--service", "apache"], []),
    ],
)
def test_each_option_narrows_it(words: list[str], nodes: list[str]) -> None:
    """As those of `consul event` do: a pattern may match anywhere."""
    assert found(*words) == nodes


def test_nodes_that_acknowledge_are_those_of_the_fleet() -> None:
    """Others in the catalogue do not take its messages."""
    assert found("--node", ".", documents=["web1"]) == ["web1"]


@pytest.mark.parametrize(
    "denied,target,rule",
    [
        ("/v1/kv/agentd/edge/nodes/key", Target("x"), 'key_prefix "agentd/edge/nodes/"'),
        ("/v1/catalog/nodes", Target("x"), 'node_prefix ""'),
        ("/v1/catalog/service", Target("", "apache"), 'service_prefix ""'),
    ],
)
def test_what_the_token_may_not_see_is_not_nobody(denied: str, target: Target, rule: str) -> None:
    """The rule to add is told."""
    with pytest.raises(ConsulRefused, match=re.escape(f'{rule} {{ policy = "read" }}')):
        matching(target, Keys("edge"), cast("ConsulClient", Catalogue([], denied)))


def test_a_tag_needs_its_service() -> None:
    """As in Consul."""
    with pytest.raises(ConfigError, match="give --service as well"):
        check_target(parsed("--tag", "edge"))


@pytest.mark.parametrize("pattern", ["", "(", "a\nb", "x" * 513])
def test_what_is_no_pattern_is_wrong_usage(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is published that no node could read."""
    with pytest.raises(SystemExit, match="2"):
        parsed("--node", pattern)
    assert "regular expression" in capsys.readouterr().err


def test_a_target_is_described_in_the_words_that_were_typed() -> None:
    """All nodes have none."""
    assert described(Target("^web", "nginx")) == "node=^web service=nginx"
    assert not described(Target())
