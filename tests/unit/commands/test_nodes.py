"""`agentd nodes`: from Consul's answer to what is printed; the answers are scripted."""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.cli import main
from agentd.commands.nodes import _printable
from tests.unit.watch.scripted import ScriptedAgent, reply

Run = Callable[..., int]


@pytest.fixture
def agent() -> Iterator[ScriptedAgent]:
    """A scripted agent; fill `agent.script` with replies."""
    with tempfile.TemporaryDirectory(prefix="agentd-") as directory:
        agent = ScriptedAgent(Path(directory) / "consul.sock")
        yield agent
        agent.stop()


@pytest.fixture
def run(agent: ScriptedAgent, tmp_path: Path) -> Run:
    """Run `agentd nodes web ...` on these instances: `run(instances, "--json")`."""
    file = tmp_path / "agentd.yaml"
    file.write_text(
        f"consul: {{address: '{agent.address}'}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )

    def run(instances: list[dict[str, Any]], *options: str, filtered: str = "false") -> int:
        agent.script.insert(
            0, reply(instances, X_Consul_Index="9", X_Consul_Results_Filtered_By_ACLs=filtered)
        )
        return main(["--config", str(file), "nodes", "web", *options])

    return run


def instance(
    address: str,
    *checks: str,
    node: str = "n1",
    own: bool = True,
    tags: Sequence[str] | None = None,
    port: int = 80,
) -> dict[str, Any]:
    """One instance as /v1/health/service has it; with `own` the service has an address of its own."""
    return {
        "Node": {"Node": node, "Address": "192.0.2.99" if own else address},
        "Service": {"Address": address if own else "", "Port": port, "Tags": tags},
        "Checks": [{"CheckID": f"c{at}", "Status": status} for at, status in enumerate(checks)],
    }


def test_addresses_are_sorted_by_number_and_each_told_once(
    run: Run, agent: ScriptedAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """IPv4, IPv6; the node's address where the service has none."""
    found = [
        instance("2001:DB8:0::1"),
        instance("10.0.0.10", own=False),
        instance("10.0.0.9"),
        instance("10.0.0.9", port=81),
    ]
    assert run(found) == 0
    assert capsys.readouterr() == ("10.0.0.9\n10.0.0.10\n2001:db8::1\n", "")
    assert agent.requests[0].target == "/v1/health/service/web?stale="


ODD = (
    "-oProxyCommand=id",
    "$(touch PWNED)",
    "fe80::1%$(touch${IFS}PWNED)",
    "fe80::1%eth0",
    "10.0.0.1 -oProxyCommand=id",
    "10.0.0.1\n-oProxyCommand=id",
    "*",
    "127.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "-web.example",
    "web.example-",
    "web..example",
    ".",
    "a" * 64,
    "me@web.example",
)


@pytest.mark.parametrize("options", [[], ["--names"], ["--json"], ["--plain"]])
def test_what_is_no_address_is_left_out_and_told(
    run: Run, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """It would reach `ssh $(agentd nodes web)`; the status says so."""
    found = [instance("10.0.0.1"), *(instance(address, node=f"-n{at}") for at, address in enumerate(ODD))]

    assert run(found, *options) == 1
    said = capsys.readouterr()

    printed = (
        [one["address"] for one in json.loads(said.out)] if "--json" in options else said.out.split("\n")
    )
    assert [one for one in printed if one] == ["10.0.0.1"]
    lines = said.err.splitlines()
    assert len(lines) == 11
    assert all(line.startswith("agentd: ") and line.isprintable() for line in lines)
    assert f"{len(ODD)} instances of 'web' were left out in all" in lines[-1]


def test_host_names_are_printed_on_request(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the message says how."""
    found = [instance("web1.example"), instance("10.0.0.1"), instance("db_1")]

    assert run(found, "--names") == 1
    assert capsys.readouterr().out == "10.0.0.1\nweb1.example\n"
    assert run(found) == 1
    said = capsys.readouterr()
    assert said.out == "10.0.0.1\n"
    assert "'web1.example' is not an IP address; --names prints host names" in said.err


@given(st.text(max_size=40))
def test_only_addresses_and_names_are_printable(text: str) -> None:
    """Nothing that a shell or a program takes for more than one word, or for an option."""
    printed = _printable(text, names=True)

    assert re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9.:-]*|::[0-9a-f:.]*)?", printed)


def test_json_has_every_instance_with_its_worst_status(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Node, address, port, tags and status; maintenance comes before all."""
    drained = instance("10.0.0.4", "critical", node="d")
    drained["Checks"].append({"CheckID": "_node_maintenance", "Status": "critical"})
    found = [
        instance("10.0.0.1", "passing", "warning", node="a", tags=["v2", "blue"]),
        instance("10.0.0.2", "warning", "critical", node="b"),
        instance("10.0.0.3", node="c"),
        drained,
    ]
    assert run(found, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0] == {
        "node": "a",
        "address": "10.0.0.1",
        "port": 80,
        "tags": ["blue", "v2"],
        "status": "warning",
    }
    assert [one["status"] for one in told] == ["warning", "critical", "passing", "maintenance"]


def test_tag_and_passing_choose(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Both must hold; the case of a tag does not count, as with Consul."""
    found = [
        instance("10.0.0.1", "passing", tags=["Blue"]),
        instance("10.0.0.2", "passing"),
        instance("10.0.0.3", "warning", tags=["blue"]),
    ]
    assert run(found, "--tag", "blue", "--passing") == 0
    assert capsys.readouterr().out == "10.0.0.1\n"


@pytest.mark.parametrize(
    "options,said",
    [
        (["--passing"], "no instance of 'web' is passing; it has 1 in all"),
        (["--tag", "a", "--passing"], "no instance of 'web' is passing and tagged 'a'; it has 1 in all"),
    ],
)
def test_no_instance_as_asked_ends_with_1(
    run: Run, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    """And says how many there are otherwise."""
    assert run([instance("10.0.0.1", "critical")], *options) == 1
    assert capsys.readouterr() == ("", f"agentd: {said}\n")


def test_unknown_service_ends_with_1(
    run: Run, agent: ScriptedAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """Consul was asked whether the token may see it: here ACLs are off."""
    agent.script = [reply(b"ACL support disabled", 401)] * 2
    assert run([]) == 1
    assert "Consul knows no service 'web'" in capsys.readouterr().err


def test_token_without_the_right_is_told_apart(
    run: Run, agent: ScriptedAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same empty list, another message."""
    agent.script = [reply([{"Allow": False}])]
    assert run([]) == 1
    assert "the token has no right to read service 'web'" in capsys.readouterr().err


def test_answer_that_is_not_consuls_is_an_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with a sentence, not with a traceback."""
    assert run([{"Node": None}]) == 1
    assert "is this a Consul agent?" in capsys.readouterr().err


def test_list_that_consul_cut_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Newer Consuls say so in a header; what is there is printed."""
    assert run([instance("10.0.0.1")], filtered="true") == 0
    said = capsys.readouterr()
    assert (said.out, "may not see all" in said.err) == ("10.0.0.1\n", True)


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.mark.parametrize("plain", [True, False])
def test_terminal_shows_a_table_unless_plain(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    plain: bool,  # noqa: FBT001 (pytest passes parameters by name)
) -> None:
    """A person wants to see more than a pipe does."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run([instance("10.0.0.1", tags=["blue"])], *(["--plain"] if plain else [])) == 0
    assert (terminal.getvalue() == "10.0.0.1\n") is plain
    assert ("blue" in terminal.getvalue()) is not plain


def test_an_instance_without_an_address_is_left_out_and_told(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are printed; the status says that they are not all."""
    odd = {"Node": {"Node": "n6"}, "Service": {"ID": "api\u202e6", "Port": 80}}

    assert run([instance("10.0.0.1"), odd]) == 1
    said = capsys.readouterr()

    assert said.out == "10.0.0.1\n"
    assert said.err == "agentd: instance api\\u202e6 was left out: no usable Address\n"
