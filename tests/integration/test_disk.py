"""What the disk, or somebody with a shell, does to the tree and the state under a running daemon."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.test_faults import fill, remount, small_disk
from tests.integration.test_main_job import new_key
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE, wait_until

NewNode = Callable[..., Node]
BLOCKED = "198.51.100.7"


def blocking(new_node: NewNode, suffix: str, **settings: str) -> Node:
    """A node whose generation 2 blocks an address."""
    handlers = main_job(promote_after="0s", interval="100ms", suffix=suffix)
    node = new_node(handlers=handlers, settings=settings).start()
    node.outcome(node.fire(BLACKLIST_EVENT + suffix, f"add {BLOCKED}".encode()))
    assert node.nginx.get(client=BLOCKED)[0] == 403
    return node


def _list(node: Node) -> Path:
    """The file that names the address."""
    current = (node.nginx.tree / "current").resolve()
    return next(
        path
        for path in current.rglob("*")
        if path.is_file() and BLOCKED.encode() in path.read_bytes() and path.name != "manifest.json"
    )


def _flip(path: Path) -> None:
    text = path.read_bytes().replace(BLOCKED.encode(), b"198.51.100.9")
    with path.open("r+b") as file:
        file.write(text)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "same size": _flip,
    "truncated": lambda path: os.truncate(path, 10),
    "no rights": lambda path: path.chmod(0),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_healed_and_nginx_reads_it_again(new_node: NewNode, suffix: str, damage: str) -> None:
    """Within seconds, even if nginx had loaded the damaged file meanwhile."""
    node = blocking(new_node, suffix)
    victim, before = _list(node), node.content()
    DAMAGES[damage](victim)
    wait_until(lambda: node.content() == before, "the file to be healed")
    wait_until(
        lambda: any(
            row["id"].startswith("restored-") and row["outcome"] == "applied"
            for row in node.history("nginx-reload")
        ),
        "the reload",
    )
    assert node.nginx.get(client=BLOCKED)[0] == 403
    # By whoever comes across it first: the look every second, or a commit.
    assert any('"event": "tree.' in line and victim.name in line for line in node.agentd.log_lines())
    assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"


def test_where_drift_is_only_told_a_damaged_file_stays(new_node: NewNode, suffix: str) -> None:
    """Until a start of agentd; meanwhile the node is not ready, and says why."""
    node = blocking(new_node, suffix, drift="report")
    victim, before = _list(node), node.content()
    _flip(victim)

    wait_until(lambda: node.agentd.get("/readyz")[0] == 503, "the damage to be told")
    told, during = node.agentd.get("/readyz")[1], node.content()
    node.agentd.stop()
    node.agentd.start()

    assert "the tree is damaged" in told
    assert victim.name in told
    assert during != before
    assert node.content() == before


def test_damage_while_the_daemon_is_down_is_healed_at_the_start(new_node: NewNode, suffix: str) -> None:
    """It is not taken for what was committed."""
    node = blocking(new_node, suffix)
    before = node.content()
    node.agentd.stop()
    _flip(_list(node))
    node.agentd.start()
    assert node.content() == before


def test_a_roll_back_leads_out_of_a_broken_generation(new_node: NewNode, suffix: str) -> None:
    """With the copy damaged as well, it stays broken, is told, and the one before can be made current."""
    node = blocking(new_node, suffix)
    broken = node.generation
    node.agentd.stop()
    _flip(_list(node))
    mirror = node.directory / "state" / "mirror"
    for path in mirror.rglob("*"):
        if path.is_file() and BLOCKED.encode() in path.read_bytes() and path.name != "manifest.json":
            _flip(path)
    done = node.agentd.command("rollback", str(broken - 1), "--wait", "1s")
    assert f"Generation {broken - 1} is current again" in done.stdout, done.stderr
    node.agentd.start()
    assert node.generation >= broken - 1
    assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"


def test_a_second_daemon_with_another_state_is_refused(new_node: NewNode, suffix: str) -> None:
    """One tree has one daemon; what the first one made stays."""
    node = blocking(new_node, suffix)
    before = node.content()
    node.config["status"]["address"] = f"127.0.0.1:{free_port()}"
    node.config["state"] = str(node.directory / "other")
    node.configure({"nginx-reload": {"use": "nginx_reload"}})
    done = node.agentd.command("run")
    assert done.returncode == 1
    assert f"{node.nginx.tree}: another agentd is already using this tree (pid" in done.stderr
    assert "Traceback" not in done.stderr
    assert node.content() == before


def test_a_deleted_tree_still_has_one_daemon(new_node: NewNode, suffix: str) -> None:
    """The lock goes with the tree, and is taken again with it."""
    node = blocking(new_node, suffix)
    node.nginx.tree.rename(node.directory / "deleted")
    wait_until((node.nginx.tree / "current").exists, "the tree")
    node.config["status"]["address"] = f"127.0.0.1:{free_port()}"
    node.config["state"] = str(node.directory / "other")
    node.configure()
    assert "already using this tree" in node.agentd.command("run").stderr


def test_a_tree_that_cannot_be_looked_after_is_told(new_node: NewNode, suffix: str) -> None:
    """Once in the log, and by readyz and status until it can be made again."""
    node = blocking(new_node, suffix)
    tree, before = node.nginx.tree, node.content()
    tree.rename(node.directory / "away")
    tree.write_text("")
    wait_until(lambda: node.agentd.get("/readyz")[0] == 503, "the word")
    wait_until(lambda: "a file is where a directory should be" in node.agentd.get("/readyz")[1], "the cure")
    assert "a file is where a directory should be" in node.agentd.command("status").stdout
    assert sum("agent.trouble" in line for line in node.agentd.log_lines()) == 1
    tree.unlink()
    wait_until(lambda: node.agentd.get("/readyz")[0] == 200 and node.content() == before, "the tree")
    assert node.nginx.get(client=BLOCKED)[0] == 403


@contextmanager
def notified(node: Node) -> Iterator[socket.socket]:
    """Start agentd as systemd does; yields where its messages arrive."""
    address = node.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(address))
        listening.settimeout(PATIENCE)
        node.agentd.process.environment["NOTIFY_SOCKET"] = str(address)
        node.agentd.process.spawn()
        yield listening


def until_ready(listening: socket.socket) -> str:
    """The message that lets systemd go on."""
    while True:
        message = listening.recv(65536).decode()
        if "READY=1" in message:
            return message


def test_nginx_need_not_wait_for_an_unusable_tree(new_node: NewNode, suffix: str) -> None:
    """With a good generation there, systemd is told after seconds, and what is wrong is said."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    with small_disk(node.nginx.tree):
        node.start()
        before = node.content()
        node.agentd.stop()
        remount(node.nginx.tree, "ro")
        with notified(node) as listening:
            assert "Read-only file system" in until_ready(listening)
            assert node.agentd.get("/readyz")[0] == 503
            assert "Read-only file system" in node.agentd.get("/readyz")[1]
            assert node.content() == before
            remount(node.nginx.tree, "rw")
            wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to go on")
        node.stop()


def test_without_a_generation_nginx_waits(new_node: NewNode, suffix: str) -> None:
    """It could not start; the trouble may be over before systemd loses patience."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    shutil.rmtree(node.nginx.tree, ignore_errors=True)
    node.nginx.tree.parent.mkdir(parents=True, exist_ok=True)
    node.nginx.tree.write_bytes(b"in the way")
    with notified(node) as listening:
        wait_until(
            lambda: sum("cannot_recover" in line for line in node.agentd.log_lines()) > 4, "four tries"
        )
        node.nginx.tree.unlink()
        assert "waiting" not in until_ready(listening)


# ---------------------------------------------------------------------- the state directory


def counting(new_node: NewNode, suffix: str) -> tuple[Node, Path]:
    """A node with a blacklist, and a program that notes each of its runs in a file."""
    node = new_node(handlers=main_job(promote_after="0s", interval="100ms", suffix=suffix))
    runs = node.directory / "runs"
    node.configure(
        node.config["handlers"]
        | {
            "program": {
                "use": "command",
                "on": [{"event": f"program{suffix}"}],
                "options": {"shell": f'echo "$AGENTD_CHANGE_ID" >> {runs}'},
            }
        }
    )
    node.start()
    for number in range(3):
        node.outcome(node.fire(f"program{suffix}", str(number).encode()))
    node.outcome(node.fire(BLACKLIST_EVENT + suffix, f"add {BLOCKED}".encode()))
    return node, runs


LOSSES: dict[str, Callable[[Path], object]] = {
    "all": shutil.rmtree,
    "the journal": lambda state: (state / "journal.db").unlink(),
    "its log": lambda state: (state / "journal.db-wal").unlink(),
    "the lock": lambda state: (state / "agentd.lock").unlink(),
    "the mirror": lambda state: shutil.rmtree(state / "mirror"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_state_that_is_deleted_is_made_again(new_node: NewNode, suffix: str, loss: str) -> None:
    """Within seconds, with all that was done; so nothing is done twice, not even after a restart."""
    node, runs = counting(new_node, suffix)
    state = node.directory / "state"
    before = node.content()
    LOSSES[loss](state)
    wait_until(lambda: (state / "journal.db").exists() and (state / "agentd.lock").exists(), "the state")
    if loss.startswith(("all", "the journal", "its log")):
        wait_until(lambda: any("journal.rescued" in line for line in node.agentd.log_lines()), "the word")
    node.outcome(node.fire(f"program{suffix}", b"new"))
    if loss == "all":
        wait_until((state / "mirror" / "current").exists, "the copy of the tree")
    assert "already using this state directory" in node.agentd.command("run").stderr
    node.agentd.kill()
    node.agentd.start()
    node.outcome(node.fire(f"program{suffix}", b"last"))
    assert len(runs.read_text().split()) == 5
    assert node.content() == before
    assert node.nginx.get(client=BLOCKED)[0] == 403


DAMAGES_OF_THE_JOURNAL: dict[str, Callable[[Path], object]] = {
    "overwritten": lambda file: _overwrite(file, 4096),
    "its beginning": lambda file: _overwrite(file, 0),
    "truncated": lambda file: os.truncate(file, 8192),
}


def _overwrite(file: Path, at: int) -> None:
    with file.open("r+b") as out:
        out.seek(at)
        out.write(os.urandom(20 * 4096))


@pytest.mark.parametrize("damage", DAMAGES_OF_THE_JOURNAL)
def test_a_journal_damaged_while_running_ends_the_daemon(new_node: NewNode, suffix: str, damage: str) -> None:
    """With a clear error, for systemd to start it again; then the file is set aside, and it goes on."""
    node, _ = counting(new_node, suffix)
    state = node.directory / "state"
    node.agentd.stop()  # which moves all of the log into the file
    node.agentd.start()
    before = node.content()
    DAMAGES_OF_THE_JOURNAL[damage](state / "journal.db")
    wait_until(lambda: node.agentd.process.exit_status is not None, "it to end")
    assert node.agentd.process.exit_status == 1
    assert any("the journal is damaged" in line for line in node.agentd.log_lines()[-5:])
    assert not any("Traceback" in line for line in node.agentd.log_lines())
    node.agentd.start()
    assert list(state.glob("journal.db.damaged-*"))
    assert any("journal.damaged" in line for line in node.agentd.log_lines())
    assert node.nginx.get(client=BLOCKED)[0] == 403
    assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"
    assert before["generation"] <= node.content()["generation"]


def test_a_full_state_at_the_start_is_waited_for(new_node: NewNode, suffix: str) -> None:
    """It says so, does not hold up nginx, and goes on once there is room."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    state = node.directory / "state"
    with small_disk(state, "1m"):
        node.start()
        before = node.content()
        node.agentd.stop()
        for path in state.iterdir():
            if path.is_file():
                path.unlink()
        filler = state / "filler"
        fill(filler)
        with notified(node) as listening:
            assert "full" in until_ready(listening)
            assert "full" in node.agentd.get("/readyz")[1]
            assert node.agentd.get("/status")[0] == 200
            assert node.content() == before
            filler.unlink()
            wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to go on")
        assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"
        node.stop()


@pytest.mark.parametrize("again", ["a reload", "a start"])
def test_a_state_that_is_full_when_the_handlers_begin_is_waited_for(
    new_node: NewNode, suffix: str, again: str
) -> None:
    """The journal can be read, but not written: that ends nothing."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    state = node.directory / "state"
    with small_disk(state, "1m"):
        node.start()
        if again == "a start":
            node.agentd.kill()
        filler = state / "filler"
        fill(filler)
        if again == "a start":
            node.agentd.process.spawn()
        else:
            node.agentd.reload()
        wait_until(lambda: "full" in node.agentd.get("/readyz")[1], "the word")
        filler.unlink()
        wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to go on")
        assert node.outcome(node.fire(TICKET_EVENT + suffix, new_key()))["outcome"] == "applied"
        assert node.agentd.process.exit_status is None
        node.stop()


def test_a_full_state_is_told(new_node: NewNode, suffix: str) -> None:
    """By readyz and status, until there is room again."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    with small_disk(node.directory / "state", "2m"):
        node.start()
        filler = node.directory / "state" / "filler"
        fill(filler)
        node.fire(BLACKLIST_EVENT + suffix, f"add {BLOCKED}".encode() * 4)
        wait_until(lambda: "the journal cannot be written" in node.agentd.get("/readyz")[1], "the word")
        words = "the journal cannot be written"
        wait_until(
            lambda: words in node.agentd.command("status").stdout, "the same from `agentd status`", pause=0.5
        )
        filler.unlink()
        wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to go on")
        node.stop()


def test_a_flood_stays_within_the_journal_s_limit(new_node: NewNode, suffix: str) -> None:
    """A large key that keeps changing and a burst of events, for handlers of which one is stuck."""
    handlers = {
        "stuck": {
            "use": "command",
            "on": [{"key": f"flood{suffix}"}, {"event": f"flood{suffix}"}],
            "options": {"argv": ["sleep", "300"], "timeout": "10m"},
        },
        "quick": {
            "use": "command",
            "on": [{"key": f"flood{suffix}"}],
            "options": {"argv": ["true"]},
        },
    }
    node = new_node(handlers=handlers, settings={"journal": {"max_size": "8M"}}).start()
    state, most = node.journal.parent, 0
    for number in range(60):
        node.consul.kv_put(f"flood{suffix}", os.urandom(180_000).hex().encode())
        node.consul.fire(f"flood{suffix}", str(number).encode())
        most = max(most, sum(file.lstat().st_size for file in state.glob("journal.db*")))

    wait_until(
        lambda: any(row["outcome"] == "applied" for row in node.history("quick")), "a state to be handled"
    )
    assert most < 8 << 20
    wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to be ready")
    assert "agentd_journal_bytes" in node.agentd.get("/metrics")[1]


def test_a_flood_beside_a_reader_does_not_fill_the_disk(new_node: NewNode, suffix: str) -> None:
    """Somebody left `sqlite3` in a transaction: readyz and status say so, and what is owed comes after it."""
    key = f"flood{suffix}"
    handlers = {"quick": {"use": "command", "on": [{"key": key}], "options": {"argv": ["true"]}}}
    node = new_node(handlers=handlers, settings={"journal": {"max_size": "8M"}}).start()
    files, why = node.journal.parent, "cannot be emptied: end the process"
    with closing(sqlite3.connect(node.journal, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM changes").fetchone()

        def told() -> bool:
            node.consul.kv_put(key, os.urandom(180_000).hex().encode())
            return why in node.agentd.get("/readyz")[1]

        wait_until(told, "the word", pause=0.1)
        for _ in range(40):
            told()
        assert sum(file.lstat().st_size for file in files.glob("journal.db*")) < 4 * 8 << 20
        wait_until(
            lambda: why in node.agentd.command("status").stdout, "the same from `agentd status`", pause=0.5
        )
    node.consul.kv_put(key, b"the last one")

    wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to go on")
    wait_until(lambda: node.history("quick")[0]["outcome"] == "applied", "the last one to be handled")
