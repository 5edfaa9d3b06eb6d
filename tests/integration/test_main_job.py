"""The main job on real servers: an event becomes a key, a key becomes a generation, and nginx proves it."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agentd.nginx import canary
from tests.servers.agentd import WAIT
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]


def new_key(size: int = 48) -> bytes:
    """A payload as `openssl rand | base64` makes it, line end included."""
    return base64.encodebytes(os.urandom(size))


def test_a_key_is_served_by_new_workers(new_node: NewNode, suffix: str) -> None:
    """An event's key encrypts after promote_after: 0, under a new generation that new workers run."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    old = node.nginx.workers()
    payload = new_key()
    entry = node.outcome(node.fire(TICKET_EVENT + suffix, payload))
    assert entry["outcome"] == "applied"
    assert node.tickets()[0].read_bytes() == base64.b64decode(payload)
    assert node.generation == entry["generation"]
    assert not node.nginx.workers() & old


def test_a_key_that_comes_while_nginx_is_stopped_says_so(new_node: NewNode, suffix: str) -> None:
    """It is committed, outcome and metric say that no nginx runs, and nginx serves it once it starts."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))
    wait_until(lambda: _reloads(node, "proved") >= 1, "the proof to be counted")
    proved, skipped = _reloads(node, "proved"), _reloads(node, "skipped")
    node.nginx.stop()

    entry = node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))

    assert entry["outcome"] == "applied"
    assert entry["reason"] == "committed; nginx is not running, it will serve this when it starts"
    wait_until(lambda: _reloads(node, "skipped") > skipped, "it to be counted")
    assert (_reloads(node, "proved") - proved, _reloads(node, "skipped") - skipped) == (0, 1)
    node.nginx.start()
    served = str(node.generation)
    wait_until(lambda: canary.ask(node.nginx.canary).generation == served, "the generation to be served")


def _reloads(node: Node, result: str) -> float:
    line = f'agentd_reloads_total{{result="{result}"}} '
    page = node.agentd.get("/metrics")[1].splitlines()
    return next(float(found.removeprefix(line)) for found in page if found.startswith(line))


def test_the_daemon_tells_the_condition_of_each_handler(new_node: NewNode, suffix: str) -> None:
    """What is live, what waits, the last failure with its reason, and when timed work is due."""
    node = new_node(handlers=main_job(promote_after="60s", suffix=suffix)).start()
    node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))
    refused = node.fire(TICKET_EVENT + suffix, new_key(5))
    node.outcome(refused)

    told = json.loads(node.agentd.get("/status")[1])["handlers"]

    assert sorted(told) == ["blacklist", "nginx-reload", "ticket-keys"]
    keys = told["ticket-keys"]
    assert (keys["ready"], keys["live"], keys["waiting"]) == (True, node.generation, 0)
    assert (keys["last_failure"]["change"], keys["last_failure"]["outcome"]) == (refused, "refused")
    assert keys["next_due"] > time.time()
    assert keys["gauges"]


def test_keys_are_for_root_only(new_node: NewNode, suffix: str) -> None:
    """Key files, the manifest and the journal cannot be read by others; no key is in the log."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    payload = new_key()
    node.outcome(node.fire(TICKET_EVENT + suffix, payload))
    secret = [
        *node.tickets(),
        node.nginx.tree / "current" / "manifest.json",
        node.directory / "state" / "journal.db",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secret} == {0}
    log = node.agentd.log.read_bytes()
    assert payload.strip() not in log
    assert base64.b64decode(payload).hex().encode() not in log


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])
def test_a_session_travels_between_nodes(
    new_node: NewNode, suffix: str, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """A session begun on one node is resumed on another, before and after a rotation."""
    nodes = [new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start() for _ in range(2)]
    _rotate(nodes, suffix)
    client = TLSClient(certificate, version)
    client.connect(nodes[0].nginx.address, nodes[0].nginx.tls_port)
    assert client.connect(nodes[1].nginx.address, nodes[1].nginx.tls_port).resumed
    _rotate(nodes, suffix)
    assert client.connect(nodes[0].nginx.address, nodes[0].nginx.tls_port).resumed


def _rotate(nodes: list[Node], suffix: str) -> None:
    event = nodes[0].fire(TICKET_EVENT + suffix, new_key())
    for node in nodes:
        assert node.outcome(event)["outcome"] == "applied"


def test_a_new_key_first_only_decrypts(new_node: NewNode, suffix: str) -> None:
    """The key joins the ring behind the one that encrypts, and takes over on time, after a restart too."""
    node = new_node(handlers=main_job(promote_after="6s", suffix=suffix)).start()
    first = node.tickets()[0].name
    generation = node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["generation"]
    staged = [path.name for path in node.tickets(generation)]  # also if it has taken over by now
    node.agentd.stop()
    node.agentd.start()
    wait_until(lambda: node.tickets()[0].name != first, "the promotion", pause=0.1)
    assert staged[0] == first
    assert [path.name for path in node.tickets()] == staged[::-1]


def test_an_address_is_refused_until_its_time_is_over(new_node: NewNode, suffix: str) -> None:
    """`add CIDR TTL` blocks the network and not its neighbour, and ends by itself."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    entry = node.outcome(node.fire(BLACKLIST_EVENT + suffix, b"add 198.51.100.0/31 20s\nadd 2001:db8::/64"))
    assert entry["outcome"] == "applied"
    seen = {
        client: node.nginx.get(client=client)[0]
        for client in ("198.51.100.1", "198.51.100.2", "2001:db8::1", "2001:db8:0:1::1")
    }
    assert seen == {"198.51.100.1": 403, "198.51.100.2": 200, "2001:db8::1": 403, "2001:db8:0:1::1": 200}
    wait_until(lambda: node.nginx.get(client="198.51.100.1")[0] == 200, "the entry to expire", pause=0.1)
    assert node.nginx.get(client="2001:db8::1")[0] == 403


def test_an_event_is_applied_once(new_node: NewNode, suffix: str) -> None:
    """An event that Consul lists again after a restart of the daemon is not handled again."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    event = node.fire(TICKET_EVENT + suffix, new_key())
    node.outcome(event)
    generation = node.generation
    node.agentd.stop()
    node.agentd.start()
    marker = node.fire(BLACKLIST_EVENT + suffix, b"not an address")
    node.outcome(marker)
    assert [entry["id"] for entry in node.history("ticket-keys") if entry["kind"] == "event"] == [event]
    assert node.generation == generation


def test_the_same_key_fired_twice_changes_nothing(new_node: NewNode, suffix: str) -> None:
    """A second event with the same key ends as unchanged."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    payload = new_key()
    node.outcome(node.fire(TICKET_EVENT + suffix, payload))
    before = node.content()
    assert node.outcome(node.fire(TICKET_EVENT + suffix, payload))["outcome"] == "unchanged"
    assert node.content() == before


def test_a_burst_is_merged_into_few_reloads(new_node: NewNode, suffix: str) -> None:
    """Thirty events at once are all applied, with far fewer reloads."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    node.agentd.process.send(signal.SIGSTOP)  # however slow the machine is, it then finds all of them
    events = [node.fire(BLACKLIST_EVENT + suffix, f"add 198.51.{n}.1".encode()) for n in range(30)]
    wait_until(lambda: events[-1] in [one["ID"] for one in node.consul.events()], "the last one")
    node.agentd.process.send(signal.SIGCONT)
    outcomes = {node.outcome(event)["outcome"] for event in events}
    assert outcomes == {"applied"}
    assert node.nginx.error_log.read_text().count("signal 1 (SIGHUP) received") <= 4
    assert node.nginx.get(client="198.51.29.1")[0] == 403


def test_sighup_takes_over_a_new_configuration(new_node: NewNode, suffix: str, key_prefix: str) -> None:
    """A handler that was added works after SIGHUP."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    out = node.directory / "out"
    added = {"use": "command", "on": [{"key": f"{key_prefix}k"}], "options": {"shell": f"cat > {out}"}}
    node.configure(main_job(suffix=suffix) | {"added": added})
    node.agentd.reload()
    wait_until(lambda: any("config.reloaded" in line for line in node.agentd.log_lines()), "the reload")
    node.consul.kv_put(f"{key_prefix}k", b"hello")
    wait_until(lambda: out.exists() and out.read_text(), "the handler to run")
    assert f"{key_prefix}k" in out.read_text()


def test_sighup_with_a_bad_file_keeps_the_old_configuration(new_node: NewNode, suffix: str) -> None:
    """A bad file is refused with file and line, and the daemon goes on as before."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    node.configure({"broken": {"use": "no_such_handler", "onn": []}})
    node.agentd.reload()
    wait_until(lambda: any("config.refused" in line for line in node.agentd.log_lines()), "the refusal")
    refused = next(line for line in node.agentd.log_lines() if "config.refused" in line)
    node.configure(main_job(promote_after="0s", suffix=suffix))
    assert "agentd.yaml:" in refused
    assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"


def slow_node(new_node: NewNode, suffix: str, shell: str, *, drain: str = "10s") -> Node:
    """A node whose only handler runs a shell command that takes its time."""
    slow = {"use": "command", "on": [{"event": f"slow{suffix}"}], "options": {"shell": shell}}
    node = new_node(handlers={"slow": slow}, settings={"drain": drain})
    node.agentd.start()
    return node


def test_sigterm_finishes_what_is_in_hand(new_node: NewNode, suffix: str, directory: Path) -> None:
    """SIGTERM in the middle of a handler's work lets it end, and the exit status is 0."""
    began, finished = directory / "began", directory / "finished"
    node = slow_node(new_node, suffix, f"touch {began}; sleep 1; touch {finished}")
    node.fire(f"slow{suffix}", b"")
    wait_until(began.exists, "the handler to begin")
    assert node.agentd.stop() == 0
    assert finished.exists()


def test_sigterm_ends_within_the_deadline(new_node: NewNode, suffix: str, directory: Path) -> None:
    """A handler that would take far longer is ended at the deadline, and its change stays owed."""
    began = directory / "began"
    node = slow_node(new_node, suffix, f"touch {began}; sleep 600", drain="1s")
    event = node.fire(f"slow{suffix}", b"")
    wait_until(began.exists, "the handler to begin")
    node.agentd.process.send(signal.SIGTERM)
    node.agentd.process.wait()  # not for the ten minutes
    entry = node.entry(event)
    assert entry
    assert entry["outcome"] is None


def test_a_retired_key_leaves_the_disk(new_node: NewNode, suffix: str) -> None:
    """After `retire_after` no file has it; a rollback to a generation that had it keeps today's keys."""
    handlers = main_job(promote_after="0s", interval="100ms", suffix=suffix)
    handlers["ticket-keys"]["options"]["retire_after"] = "3s"
    node = new_node(handlers=handlers).start()
    old, new = os.urandom(48), os.urandom(48)
    to = node.outcome(node.fire(TICKET_EVENT + suffix, base64.encodebytes(old)))["generation"]
    assert _places(node, old)
    node.outcome(node.fire(TICKET_EVENT + suffix, base64.encodebytes(new)))

    wait_until(lambda: not _places(node, old), "the old key to leave the disk")
    keys = [path.read_bytes() for path in node.tickets()]
    done = node.agentd.command("rollback", str(to), *WAIT)

    assert done.returncode == 0, done.stderr
    assert node.generation == to
    assert keys == [path.read_bytes() for path in node.tickets()] == [new]
    assert _places(node, old) == []
    wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to be ready")


def _places(node: Node, key: bytes) -> list[Path]:
    """The files below the tree and the state directory that contain the key, in any form."""
    text = base64.b64encode(key)
    forms = (key, key.hex().encode(), text, base64.b64encode(text))
    found = []
    for file in [*node.nginx.tree.rglob("*"), *node.journal.parent.rglob("*")]:
        with suppress(OSError):  # it is no file, or is gone
            content = file.read_bytes()
            found += [file for form in forms if form in content]
    return found
