"""`agentd fleet` on real Consul, with documents that the test wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.fleet.acknowledgement import Name, Tried
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.head import Head
from agentd.watch import transport
from tests.servers.acknowledgers import HANDLER, NAME, Acknowledgers, acknowledgement, acknowledgers
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE, wait_until


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[Acknowledgers]:
    """Three nodes that agree."""
    with acknowledgers(consul, f"seen-{free_port()}", 3) as made:
        yield made


def options(fleet: Acknowledgers) -> list[str]:
    """Which fleet, where; of the shared agent's nodes no others ought to run agentd."""
    return ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url, "--service", "nobody"]


def seen(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and document."""
    status = main(["fleet", *words, "--json", *options(fleet)])
    return status, json.loads(capsys.readouterr().out)


def troubles(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What differs, and where."""
    return [(one["trouble"], one["node"]) for one in found["differences"]]


def test_nodes_that_agree_are_status_0(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with who published the newest message."""
    assert main(["fleet", *options(fleet)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{fleet.keys.fleet}: 3 nodes, all agree"
    assert last.split()[:5] == [NAME, "20", "3", "of", "3"]
    assert last.endswith(f"{fleet.node(0)}, publish")


def test_what_differs_comes_first_and_is_status_1(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """One node refused, one is down, one was stopped, one in the catalogue acknowledges nothing."""
    fleet.acknowledge(0, None, names={NAME: Name(live=10, tried=Tried(20, "refused", "line 3"))})
    fleet.join(1, alive=False)
    fleet.acknowledge(2, 20, stopped=1.0)
    fleet.join(3)
    args = [one for one in options(fleet) if one not in ("--service", "nobody")]
    assert main(["fleet", *args]) == 1
    told = capsys.readouterr().out
    rows = [line.split()[0] for line in told.partition("WHICH\n")[2].partition("\n\n")[0].splitlines()]
    assert rows == ["failed", "silent", "stopped", "no"]
    assert "refused: line 3; has 10" in told


def test_only_nodes_with_the_service_ought_to_run_agentd(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database is in the catalogue as well."""
    fleet.join(3)
    assert seen(fleet, capsys)[0] == 0
    service = {"Service": "web", "ID": "web"}
    fleet.consul.put(
        "/v1/catalog/register", {"Node": fleet.node(3), "SkipNodeUpdate": True, "Service": service}
    )
    status = main(["fleet", "--json", *options(fleet)[:-1], "web"])
    assert status == 1
    assert troubles(json.loads(capsys.readouterr().out)) == [("no agentd", fleet.node(3))]


def test_one_handler_is_judged_alone(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]) -> None:
    """The other takes no name, so nothing of it is behind; an unknown one is a mistake."""
    fleet.acknowledge(1, 10)
    assert seen(fleet, capsys, HANDLER)[0] == 1
    assert seen(fleet, capsys, "nginx-reload")[0] == 0
    assert main(["fleet", "blaklist", *options(fleet)]) == 1
    assert f"there is no handler 'blaklist': the nodes have {HANDLER}" in capsys.readouterr().err


def test_a_node_that_was_renamed_is_told_from_one_that_is_silent(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its old document stays, until somebody removes it; of two daemons on one agent both are there."""
    later = replace(acknowledgement(2, 20), written=time.time() - 50)
    fleet.consul.kv_put(fleet.keys.node("renamed"), render(later))
    fleet.register(2, name="renamed")
    status, found = seen(fleet, capsys)
    assert (status, troubles(found)) == (1, [("silent", fleet.node(2))])
    assert "now acknowledges as renamed; `agentd fleet forget" in found["differences"][0]["text"]
    fleet.register(2)
    assert seen(fleet, capsys)[0] == 0


def test_who_runs_and_does_not_acknowledge_is_told_from_who_has_no_agentd(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """One has the name of another node, one may not write, and one has no agentd."""
    for number in (3, 4, 5):
        fleet.join(number)
    fleet.register(3, name=fleet.node(0))
    fleet.register(4)
    args = [one for one in options(fleet) if one not in ("--service", "nobody")]
    assert main(["fleet", "--json", *args]) == 1
    found = [
        one for one in json.loads(capsys.readouterr().out)["differences"] if fleet.keys.fleet in one["node"]
    ]
    assert [(one["trouble"], one["node"]) for one in found] == [
        ("silent", fleet.node(4)),
        ("name taken", fleet.node(3)),
        ("no agentd", fleet.node(5)),
    ]


def test_a_message_for_some_nodes_makes_no_other_node_behind(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """By node, and by a service and its tag, as the nodes themselves judge it."""
    fleet.publish(30, node=f"{fleet.node(1)}$")
    assert troubles(seen(fleet, capsys)[1]) == [("behind", fleet.node(1))]
    service = {"Service": f"web-{fleet.keys.fleet}", "ID": "web", "Tags": ["edge"]}
    fleet.consul.put(
        "/v1/catalog/register", {"Node": fleet.node(2), "SkipNodeUpdate": True, "Service": service}
    )
    fleet.publish(40, service=f"^web-{fleet.keys.fleet}", tag="edge")
    assert troubles(seen(fleet, capsys)[1]) == [("behind", fleet.node(2))]
    fleet.publish(50, service=f"^web-{fleet.keys.fleet}", tag="inner")
    assert seen(fleet, capsys)[0] == 0


def test_what_was_forgotten_makes_no_joiner_behind(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """`agentd log forget` left nothing that a node could still get."""
    fleet.acknowledge(1, None)
    before = troubles(seen(fleet, capsys)[1])
    fleet.consul.kv_put(fleet.keys.head(NAME), Head("all", 20, 0, 0, floor=20).render())
    fleet.consul.kv_delete(fleet.keys.message(NAME, 20))
    assert before == [("behind", fleet.node(1))]
    assert seen(fleet, capsys)[0] == 0


def test_a_log_that_was_wiped_is_told(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]) -> None:
    """Every node still holds what Consul lost."""
    fleet.consul.kv_delete(fleet.keys.names, recurse=True)
    status, found = seen(fleet, capsys)
    assert status == 1
    assert {trouble for trouble, _ in troubles(found)} == {"log lost"}


def test_junk_and_newer_formats_cost_nothing_but_themselves(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be read is judged; what cannot is told, and no character of it steers the terminal."""
    nodes, names = fleet.keys.nodes, fleet.keys.names
    fleet.consul.kv_put(f"{nodes}odd", b"\x1b[2J{")
    fleet.consul.kv_put(f"{nodes}large", b'{"format": 1, "agentd": "' + b"x" * 100_000 + b'"}')
    fleet.consul.kv_put(f"{nodes}two%20words", b"{}")
    fleet.consul.kv_put(f"{names}{NAME}2", b'{"format": 99}')
    fleet.consul.kv_put(f"{names}a/b", b"")
    newer = json.loads(render(acknowledgement(9, 20))) | {"format": 99, "generation": "of another form"}
    fleet.consul.kv_put(f"{nodes}newer", json.dumps(newer).encode())
    assert main(["fleet", *options(fleet)]) == 1
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert f"1 keys below {nodes} were ignored" in told
    assert f"1 keys below {names} were ignored" in told
    assert f"{NAME}2: the head has format 99" in told
    assert "newer acknowledged in a newer format" in told
    _, found = seen(fleet, capsys)
    assert sorted(troubles(found))[-2:] == [("unreadable", "large"), ("unreadable", "odd")]
    assert found["agreeing"] == [fleet.node(0), fleet.node(1), fleet.node(2)]


@pytest.mark.parametrize("count", [20, 70])
def test_more_than_is_ever_read_at_once_leaves_the_nodes_readable(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Many large keys below the documents, and below the heads: ours are read one by one."""
    monkeypatch.setattr(transport, "LARGEST", 200_000)
    for at in range(count):
        fleet.consul.kv_put(f"{fleet.keys.nodes}junk/{at}", b"x" * 50_000)
        fleet.consul.kv_put(f"{fleet.keys.nodes}a{at}", b"x" * 50_000)
        fleet.consul.kv_put(f"{fleet.keys.names}junk/{at}", b"x" * 50_000)
    fleet.acknowledge(1, 10)
    status, found = seen(fleet, capsys)
    assert status == 1
    assert ("behind", fleet.node(1)) in troubles(found)
    assert {fleet.node(0), fleet.node(2)} <= set(found["agreeing"])
    below = [note.partition(" keys below ")[2].partition(" ")[0] for note in found["notes"]]
    assert below == [fleet.keys.nodes, fleet.keys.names]


def documents(fleet: Acknowledgers) -> list[str]:
    """The keys of the documents that are there."""
    nodes = (fleet.keys.node(fleet.node(number)) for number in range(3))
    return [key for key in nodes if fleet.consul.kv_get(key) is not None]


def test_forget_removes_who_is_gone_and_refuses_who_is_alive(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node that runs would write its document again."""
    args = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
    assert main(["fleet", "forget", fleet.node(1), *args]) == 1
    assert f"agentd runs on {fleet.node(1)}" in capsys.readouterr().err
    assert main(["fleet", "forget", "nobody", *args]) == 1
    assert "no node 'nobody' acknowledges" in capsys.readouterr().err
    fleet.acknowledge(1, 20, stopped=1.0)
    fleet.join(2, alive=False)
    gone = [fleet.node(1), fleet.node(2)]
    assert main(["fleet", "forget", *gone, fleet.node(0), *args]) == 1
    before = len(documents(fleet))
    assert main(["fleet", "forget", *gone, *args]) == 0
    assert before == 3
    assert documents(fleet) == [fleet.keys.node(fleet.node(0))]
    assert main(["fleet", "forget", fleet.node(0), "--force", *args]) == 0
    assert not documents(fleet)


def test_a_node_whose_clock_is_ahead_is_noted(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no difference: perhaps the clock of whoever looks is behind."""
    fleet.acknowledge(1, 20, written=time.time() + 600)
    status, found = seen(fleet, capsys)
    assert status == 0
    (note,) = [one for one in found["notes"] if "clock" in one]
    assert note.startswith(f"the clock of {fleet.node(1)} is ahead of this host's, by ")


def test_an_empty_fleet_is_not_a_healthy_one(consul: ConsulAgent, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name may be wrong."""
    status = main(["fleet", "--fleet", "nowhere", "--http-addr", consul.url])
    assert status == 1
    assert "no node acknowledges in the fleet 'nowhere': is that its name?" in capsys.readouterr().out


def test_a_fleet_that_nobody_can_see_is_not_a_healthy_one(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """No document, and no node that ought to have one: a script must not take that for agreement."""
    assert main(["fleet", "--fleet", "nowhere", *options(fleet)[2:]]) == 1
    assert "nothing to compare" in capsys.readouterr().out


def test_a_head_of_a_newer_format_is_told_as_that(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """As during an upgrade; no node has lost its log."""
    fleet.consul.kv_put(fleet.keys.head(NAME), b'{"format": 99}')
    status, found = seen(fleet, capsys)
    assert status == 1
    assert {one["trouble"] for one in found["differences"]} == {"unreadable"}
    assert "upgrade agentd" in found["differences"][0]["text"]


def test_missing_rights_are_told_and_never_taken_for_an_empty_fleet(
    new_consul: Callable[..., ConsulAgent],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under ACL deny: no rights, then those of a node, then all documents, then the catalogue as well."""
    strict = new_consul(acl=True)
    with acknowledgers(strict, "strict", 2) as made:
        args = ["--fleet", "strict", "--http-addr", strict.url, "--service", "nobody"]
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.make_token('key_prefix "other" { policy = "read" }'))
        assert main(["fleet", *args]) == 1
        assert f'key_prefix "{made.keys.nodes}" {{ policy = "read" }}' in capsys.readouterr().err
        own = f'key "{made.keys.node(made.node(0))}" {{ policy = "read" }} key_prefix "{made.keys.names}"'
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.make_token(f'{own} {{ policy = "read" }}'))
        for command in (["fleet", *args], ["tickets", *args[:4]], ["fire", NAME, "--wait", *args[:4]]):
            assert main(command) == 1
            assert f'key_prefix "{made.keys.nodes}" {{ policy = "read" }}' in capsys.readouterr().err
        keys = f'key_prefix "{made.keys.root}" {{ policy = "read" }}'
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.make_token(keys))
        assert main(["fleet", *args]) == 0
        told = capsys.readouterr().out
        assert "strict: 2 nodes, all agree" in told
        assert 'node_prefix "" { policy = "read" }' in told
        whole = f'{keys} node_prefix "" {{ policy = "read" }} service_prefix "" {{ policy = "read" }}'
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.make_token(whole))
        assert main(["fleet", *args]) == 0
        assert "!" not in capsys.readouterr().out


def test_watch_looks_again_when_a_node_confirms(fleet: Acknowledgers, tmp_path: Path) -> None:
    """And ends when it is interrupted."""
    fleet.acknowledge(1, 10)
    program = str(Path(sys.executable).with_name("agentd"))
    seen_file = tmp_path / "seen"
    argv = [program, "fleet", "--watch", *options(fleet)]
    with seen_file.open("wb") as stream:
        process = subprocess.Popen(argv, stdout=stream, stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: "1 of them differs" in seen_file.read_text(), "the first look")
            fleet.acknowledge(1, 20)
            wait_until(lambda: "all agree" in seen_file.read_text(), "the second look")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_watch_ends_when_nobody_reads_it(fleet: Acknowledgers, form: list[str]) -> None:
    """As `agentd fleet --watch | head -1`: without a word, once there is something to write."""
    program = str(Path(sys.executable).with_name("agentd"))
    argv = [program, "fleet", "--watch", *form, *options(fleet)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.stdout.close()
            fleet.acknowledge(1, 10)
            assert process.wait(PATIENCE) == 141
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_an_interrupt_leaves_the_terminal_as_it_was(fleet: Acknowledgers) -> None:
    """Lines wrap again, and nothing is said."""
    program = str(Path(sys.executable).with_name("agentd"))
    terminal, ours = os.openpty()
    argv = [program, "fleet", "--watch", *options(fleet)]
    with subprocess.Popen(argv, stdout=ours, stderr=ours, stdin=ours) as process:
        os.close(ours)
        try:
            seen = os.read(terminal, 65536)
            while b"all agree" not in seen:
                seen += os.read(terminal, 65536)
            process.send_signal(signal.SIGINT)
            with suppress(OSError):  # how a terminal tells that nobody writes to it any more
                while more := os.read(terminal, 65536):
                    seen += more
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
            os.close(terminal)
    assert seen.count(b"\x1b[?7l") == seen.count(b"\x1b[?7h") > 0
    assert b"Traceback" not in seen


@pytest.mark.parametrize("command", ["fleet", "log", "tickets"])
def test_a_plain_configuration_is_read_without_pydantic(
    fleet: Acknowledgers, command: str, tmp_path: Path
) -> None:
    """Importing it takes longer than reading a thousand documents."""
    file = tmp_path / "agentd.yaml"
    file.write_text(f"consul: {{address: '{fleet.consul.url}'}}\nfleet: {{name: {fleet.keys.fleet}}}\n")
    program = (
        "import atexit, sys; from agentd.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.exit(main({[command, '--config', str(file)]}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    modules = set(done.stderr.split())
    assert "agentd.watch.client" in modules
    assert not {"pydantic", "urllib3", "requests", "structlog"} & modules
