"""Faults around the daemon: it stays, empties nothing, says what is wrong, and goes on once mended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.test_main_job import new_key
from tests.promtool import firing
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require, require_root
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
NewConsul = Callable[..., ConsulAgent]


def waits(node: Node, event: str, why: str) -> bool:
    """Whether the event still waits, for this reason."""
    entry = node.entry(event)
    return bool(entry and entry["outcome"] is None and re.search(why, entry["reason"]))


def test_a_configuration_broken_by_somebody_else_only_delays(new_node: NewNode, suffix: str) -> None:
    """The change waits while nginx.conf is broken elsewhere, and is applied once it is mended."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    before = node.content()
    node.nginx.break_configuration()
    event = node.fire(TICKET_EVENT + suffix, new_key())
    wait_until(lambda: waits(node, event, "no_such_directive"), "the change to wait", pause=0.1)
    assert node.content() == before
    node.nginx.configure(server="if ($agentd_blocked) { return 403; }")
    assert node.outcome(event)["outcome"] == "applied"


def test_an_operators_mistake_that_only_the_reload_shows_makes_changes_wait(
    new_node: NewNode, suffix: str
) -> None:
    """-t passes and the reload fails on nginx.conf's own port: the change ends well once that is mended."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    with _listener() as port:
        node.nginx.configure(
            http=f"server {{ listen 127.0.0.1:{port}; }}", server="if ($agentd_blocked) { return 403; }"
        )
        event = node.fire(TICKET_EVENT + suffix, new_key())
        words = f"nginx cannot listen on 127.0.0.1:{port}"
        wait_until(
            lambda: any(words in (one["reason"] or "") for one in node.history()), "the reason to be told"
        )
        waiting = [one["outcome"] for one in node.history() if one["id"] == event]
    node.nginx.configure(server="if ($agentd_blocked) { return 403; }")

    assert waiting == [None]
    assert node.outcome(event)["outcome"] == "applied"


def test_a_stuck_worker_does_not_hold_up_a_block(new_node: NewNode, suffix: str) -> None:
    """It is live on the other workers within seconds, and ends as applied once that worker is gone."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix), workers=3).start()
    stuck = min(node.nginx.workers())
    os.kill(stuck, signal.SIGSTOP)
    first = node.fire(TICKET_EVENT + suffix, new_key())
    words = f"pid {stuck} does not answer"
    wait_until(lambda: any(words in (one["reason"] or "") for one in node.history()), "it to be told")

    second = node.fire(BLACKLIST_EVENT + suffix, b"add 192.0.2.7")
    wait_until(lambda: node.nginx.get(client="192.0.2.7")[0] == 403, "the address to be blocked")
    open_ = {one["id"]: one["outcome"] for one in node.history() if one["id"] in (first, second)}
    os.kill(stuck, signal.SIGKILL)

    assert open_ == {first: None, second: None}
    assert [node.outcome(one)["outcome"] for one in (first, second)] == ["applied", "applied"]


@contextmanager
def _listener() -> Iterator[int]:
    """Hold a port that nginx then cannot have."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[None]:
    """A separate file system at `path`."""
    require_root("mount")
    require("mount")
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_only_delays(new_node: NewNode, suffix: str) -> None:
    """With the disk full nothing is half-written, the reason is told, and with room again it is applied."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    with small_disk(node.nginx.tree):
        node.start()
        before = node.content()
        filler = node.nginx.tree / "filler"
        fill(filler)
        event = node.fire(TICKET_EVENT + suffix, new_key())
        wait_until(lambda: waits(node, event, "(?i)no space left"), "the change to wait", pause=0.1)
        assert node.content() == before
        assert node.passes_check()
        filler.unlink()
        assert node.outcome(event)["outcome"] == "applied"
        node.stop()


def fill(path: Path) -> None:
    """Write a file until there is no room left."""
    with path.open("wb", buffering=0) as out:  # a buffer would be flushed again, and fail again, at the end
        try:
            while True:
                out.write(b"\0" * 65536)
        except OSError:
            return


def test_a_tree_that_cannot_be_written_only_delays(new_node: NewNode, suffix: str) -> None:
    """With the file system read-only the reason is told; writable again, the change is applied."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    with small_disk(node.nginx.tree):
        node.start()
        remount(node.nginx.tree, "ro")
        event = node.fire(TICKET_EVENT + suffix, new_key())
        wait_until(lambda: waits(node, event, "(?i)read-only"), "the change to wait", pause=0.1)
        remount(node.nginx.tree, "rw")
        assert node.outcome(event)["outcome"] == "applied"
        node.stop()


def remount(path: Path, how: str) -> None:
    """Make it read-only ("ro") or writable ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


def test_a_full_disk_under_the_journal_only_delays(new_node: NewNode, suffix: str) -> None:
    """An event that cannot be written down is asked for again, and handled once it could be."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    with small_disk(node.directory / "state", "2m"):
        node.start()
        filler = node.directory / "state" / "filler"
        fill(filler)
        event = node.fire(TICKET_EVENT + suffix, new_key())
        wait_until(lambda: any("full" in line for line in node.agentd.log_lines()), "the complaint")
        filler.unlink()
        assert node.outcome(event)["outcome"] == "applied"
        node.stop()


@pytest.mark.parametrize("part", ["", "generations", "current"])
def test_a_deleted_tree_comes_back(new_node: NewNode, suffix: str, part: str) -> None:
    """Whatever of the tree somebody deletes is restored, and the next change is applied."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    node.outcome(node.fire(BLACKLIST_EVENT + suffix, b"add 198.51.100.7"))
    before = node.content()
    victim = node.nginx.tree / part
    victim.rename(node.directory / "deleted")  # in one step: the daemon may restore it at once
    wait_until(
        lambda: (node.nginx.tree / "current").exists() and node.content() == before, "the tree", pause=0.1
    )
    assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"
    assert node.nginx.get(client="198.51.100.7")[0] == 403


def test_the_daemon_starts_with_consul_down(new_node: NewNode, new_consul: NewConsul, tmp_path: Path) -> None:
    """Without Consul it is ready and keeps the last good files; that alert alone fires; and it catches up."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    before = node.content()
    assert firing(node.agentd.get("/metrics")[1], tmp_path) == set()
    node.agentd.stop()
    consul.stop()
    node.agentd.start()
    scraped = node.agentd.get("/metrics")[1]
    assert "agentd_consul_up 0" in scraped
    assert firing(scraped, tmp_path) == {"AgentdNoContact"}
    assert node.content() == before
    assert node.nginx.get(client="198.51.100.7")[0] == 403
    consul.start()
    assert node.outcome(node.fire(TICKET_EVENT, new_key()))["outcome"] == "applied"


def test_an_agent_restarted_in_mid_poll_empties_nothing(new_node: NewNode, new_consul: NewConsul) -> None:
    """Consul stopped and started again under the polls: files stay, and the next event is applied."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    before = node.content()
    consul.stop()
    wait_until(lambda: "agentd_consul_up 0" in node.agentd.get("/metrics")[1], "it to notice", pause=0.1)
    consul.start()
    assert node.outcome(node.fire(TICKET_EVENT, new_key()))["outcome"] == "applied"
    assert node.read("blacklist/blacklist.conf")
    assert before["generation"] != node.content()["generation"]
    assert node.nginx.get(client="198.51.100.7")[0] == 403


def test_a_token_without_rights_is_told(new_node: NewNode, new_consul: NewConsul) -> None:
    """With a token that may not read events it changes nothing, and says what right is missing."""
    consul = new_consul(acl=True)
    token = Path(consul.directory / "weak.token")
    token.write_text(consul.make_token('node_prefix "" { policy = "read" }'))
    node = new_node(
        consul,
        handlers=main_job(),
        settings={"consul": {"address": f"127.0.0.1:{consul.ports['http']}", "token_file": str(token)}},
    ).start()
    before = node.content()
    node.fire(BLACKLIST_EVENT, b"add 198.51.100.7")
    wait_until(
        lambda: any(
            "state.held" in line and "no right to read event" in line for line in node.agentd.log_lines()
        ),
        "the complaint",
    )
    checked = node.agentd.command("check")
    assert checked.returncode == 1
    assert re.search("FAIL.*event", checked.stdout)
    assert node.content() == before


def test_events_that_overflow_the_ring_are_counted(new_node: NewNode, new_consul: NewConsul) -> None:
    """300 events of another name between two polls: the gap is counted and logged, and nothing stops."""
    consul = new_consul()
    node = new_node(consul, handlers=main_job(promote_after="0s")).start()
    node.outcome(node.fire(BLACKLIST_EVENT, b"add 198.51.100.7"))
    node.agentd.process.send(signal.SIGSTOP)
    try:
        for number in range(300):
            last = node.fire("another", str(number).encode())
        wait_until(lambda: last in [one["ID"] for one in consul.events()], "all to be in the ring")
    finally:
        node.agentd.process.send(signal.SIGCONT)
    wait_until(lambda: _missed(node) >= 30, "the gap to be counted")
    assert _missed(node) <= 60
    wait_until(lambda: any("events.missed" in line for line in node.agentd.log_lines()), "the word")
    assert node.outcome(node.fire(TICKET_EVENT, new_key()))["outcome"] == "applied"


def _missed(node: Node) -> float:
    found = re.search(r"^agentd_events_missed_total (\S+)$", node.agentd.get("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_taken_status_port_is_a_clear_error(new_node: NewNode, suffix: str) -> None:
    """The daemon says which address is taken and what to change."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    other = new_node(
        handlers=main_job(suffix=suffix), settings={"status": {"address": node.config["status"]["address"]}}
    )
    done = other.agentd.command("run")
    assert done.returncode != 0
    assert "status.address" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_is_refused(new_node: NewNode, suffix: str) -> None:
    """Two daemons never share a state directory."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    node.config["status"]["address"] = f"127.0.0.1:{free_port()}"
    node.configure()
    done = node.agentd.command("run")
    assert done.returncode == 1
    assert "another agentd is already using" in done.stderr
