"""The test servers keep their own promises, so that a red test elsewhere is agentd's fault."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.consul import ConsulAgent, ConsulAnswerError
from tests.servers.nginx import Nginx
from tests.servers.process import ServerExitedError, ServerProcess
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient
from tests.servers.waiting import wait_until


def test_an_event_that_was_fired_is_in_the_buffer(consul: ConsulAgent) -> None:
    """An event fired over HTTP shows in the agent's list under its ID."""
    identity = consul.fire("server-test", b"payload")

    assert wait_until(lambda: identity in [event["ID"] for event in consul.events()], "the event")


def test_keys_are_written_read_and_deleted(consul: ConsulAgent, key_prefix: str) -> None:
    """A key comes back as it was written, and not at all once deleted."""
    consul.kv_put(key_prefix + "a", b"\x00\xff")
    written = consul.kv_get(key_prefix + "a")
    consul.kv_delete(key_prefix, recurse=True)

    assert (written, consul.kv_get(key_prefix + "a")) == (b"\x00\xff", None)


def test_a_service_shows_the_status_it_was_given(consul: ConsulAgent) -> None:
    """A registered service is in the health answer with the status of its check."""
    consul.register("server-test", 80)
    consul.set_status("server-test", "critical")

    health = wait_until(lambda: consul.get("/v1/health/service/server-test"), "the service")
    consul.deregister("server-test")

    assert "critical" in [check["Status"] for check in health[0]["Checks"]]


def test_a_restarted_agent_keeps_its_address_and_its_keys(new_consul: Callable[..., ConsulAgent]) -> None:
    """After a crash the same URL has the same data."""
    agent = new_consul()
    agent.kv_put("kept", b"1")

    agent.kill()
    agent.start()

    assert agent.kv_get("kept") == b"1"


def test_agents_on_three_addresses_form_one_fleet(new_consul: Callable[..., ConsulAgent]) -> None:
    """Two clients that join a server are members of its datacenter and see its events."""
    first = new_consul()
    others = [new_consul(node=f"node{number}", address=f"127.0.0.{number}", join=first) for number in (2, 3)]

    identity = first.fire("fleet-test")

    for agent in others:
        wait_until(lambda agent=agent: identity in [e["ID"] for e in agent.events()], f"it on {agent.node}")  # type: ignore[misc]  # mypy cannot type a lambda's default


def test_acls_refuse_a_token_without_rights(new_consul: Callable[..., ConsulAgent]) -> None:
    """With ACLs a token can do what its policy says and no more."""
    agent = new_consul(acl=True)
    token = agent.make_token('key_prefix "mine/" { policy = "write" }')

    agent.request("PUT", "/v1/kv/mine/a", b"", token=token)

    with pytest.raises(ConsulAnswerError, match="403"):
        agent.request("PUT", "/v1/kv/yours/a", b"", token=token)


def test_a_reload_replaces_the_workers(new_nginx: Callable[..., Nginx]) -> None:
    """The workers after a reload are not those before it, and nginx answers."""
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.start()
    before = nginx.workers()

    nginx.reload()

    assert before
    assert not before & nginx.workers()
    assert nginx.get(client="192.0.2.1") == (200, "192.0.2.1 \n")


def test_a_broken_configuration_is_in_the_emergencies(new_nginx: Callable[..., Nginx]) -> None:
    """A reload of a broken configuration changes nothing and leaves an [emerg] line."""
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.start()
    before = nginx.workers()

    nginx.break_configuration()
    os.kill(nginx.master, signal.SIGHUP)

    assert "no_such_directive" in wait_until(nginx.emergencies, "an [emerg] line")[0]
    assert nginx.workers() == before


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("same_key", [True, False], ids=["same key", "other key"])
def test_a_session_moves_between_nodes_that_share_a_key(
    new_nginx: Callable[..., Nginx],
    certificate: Certificate,
    directory: Path,
    version: ssl.TLSVersion,
    same_key: bool,  # noqa: FBT001 - a parameter of the test, never passed by position
) -> None:
    """A session begun on one nginx is resumed on another exactly if both have the ticket key."""
    nodes = [new_nginx(address=f"127.0.0.{number}") for number in (1, 2)]
    for number, node in enumerate(nodes):
        key = directory / ("ticket.key" if same_key else f"ticket{number}.key")
        if not key.exists():
            key.write_bytes(os.urandom(48))
        node.seed_tree(f"ssl_session_ticket_key {key};")
        node.start()
    client = TLSClient(certificate, version)

    first = client.connect(nodes[0].address, nodes[0].tls_port)
    second = client.connect(nodes[1].address, nodes[1].tls_port)

    assert (first.resumed, second.resumed) == (False, same_key)


def test_a_server_that_exits_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """A start that fails says what the server wrote, instead of running into the deadline."""
    server = ServerProcess(["sh", "-c", "echo no such port; exit 3"], tmp_path / "log")

    with pytest.raises(ServerExitedError, match=r"exited with 3:\nno such port"):
        server.start(lambda: False)


def test_a_process_left_running_fails_the_run() -> None:
    """A passing command that leaves a daemon behind is failed, and the daemon is named and ended."""
    command = [sys.executable, "-m", "tests.servers.leftovers", "sh", "-c", "setsid sleep 321 & true"]

    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 1
    assert "sleep 321" in run.stderr
    pid = int(run.stderr.split("left running, now killed: ")[1].split()[0])
    assert not Path(f"/proc/{pid}").exists()


def test_a_run_that_is_killed_leaves_nothing() -> None:
    """SIGTERM ends the command; what it had started and made is cleaned up after it."""
    leave = "cd $TMPDIR; pwd; touch ours; sleep 322 & echo $!; wait"
    command = [sys.executable, "-m", "tests.servers.leftovers", "sh", "-c", leave]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        directory, pid = run.stdout.readline().strip(), run.stdout.readline().strip()
        run.terminate()
        error = run.communicate(timeout=60)[1]

    assert run.returncode == 128 + signal.SIGTERM
    assert "sleep 322" in error
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(directory).exists()


def test_a_file_left_fails_the_run() -> None:
    """A passing command that leaves a directory, even a read-only one, is failed; the directory is gone."""
    leave = "cd $TMPDIR; pwd; mkdir ours pytest-of-me; touch ours/file; chmod 500 ours"
    command = [sys.executable, "-m", "tests.servers.leftovers", "sh", "-c", leave]

    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 1
    assert run.stderr.splitlines() == ["left in the temporary directory, now removed: ours"]
    assert not Path(run.stdout.strip()).exists()
