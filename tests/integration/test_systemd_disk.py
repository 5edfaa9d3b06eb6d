"""Faults of the disk, and what programs leave behind, under a real systemd and the unit as it ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.agentd import WAIT
from tests.servers.nspawn import Machine
from tests.servers.waiting import wait_until

HANDLERS: dict[str, Any] = {
    "blacklist": {"use": "ip_blacklist", "on": [{"event": "ip-blacklist"}], "notify": ["nginx-reload"]},
    "program": {
        "use": "command",
        "on": [{"event": "program"}],
        "options": {"shell": "sleep 1000 & echo $! > /run/agentd/left"},
    },
    "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
}
BLOCKED = "203.0.113.5"
SOON = 40e6  # microseconds; systemd's patience is 90 s


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a blacklist, and with a program that leaves something behind, running."""
    with Machine(tmp_path_factory.mktemp("machine")) as made:
        made.configure(HANDLERS)
        made.boot()
        wait_until(lambda: made.attempt("agentd", "status").returncode == 0, "all to be well")
        made.run("agentd", "blacklist", "add", BLOCKED, *WAIT)
        yield made


@pytest.fixture(autouse=True)
def sound(machine: Machine) -> None:
    """Whatever the test before it did, agentd and nginx run."""
    for unit in ("agentd", "nginx"):
        machine.wait_for(unit)


def leave(machine: Machine) -> str:
    """Have the program leave something behind; its process id on the machine."""
    machine.attempt("rm", "-f", "/run/agentd/left")
    machine.run("agentd", "fire", "program", "-", stdin="x")
    wait_until(
        lambda: machine.attempt("cat", "/run/agentd/left").stdout.strip() != "",
        "the program",
        pause=0.2,
    )
    wait_until(lambda: "process.left_behind" in machine.log(), "the word", pause=0.2)
    return machine.run("cat", "/run/agentd/left").strip()


def lives(machine: Machine, pid: str) -> bool:
    """Whether that process is still the one that was left."""
    return "sleep" in machine.attempt("cat", f"/proc/{pid}/comm").stdout


def test_what_a_program_leaves_behind_survives_a_reload(machine: Machine) -> None:
    """The configuration is read again, and nothing restarts."""
    left = leave(machine)
    machine.run("systemctl", "reload", "agentd")
    assert lives(machine, left)


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_what_a_program_leaves_behind_goes_with_the_unit(machine: Machine, how: str) -> None:
    """It is in agentd's control group, of which systemd leaves nothing when the main process has ended."""
    left = leave(machine)
    assert lives(machine, left)
    before = machine.show("agentd", "MainPID")
    if how == "restart":
        machine.run("systemctl", "restart", "agentd")
    else:
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "agentd")
    wait_until(lambda: machine.show("agentd", "MainPID") not in (before, "0"), "agentd again")
    wait_until(lambda: not lives(machine, left), "it to be ended", pause=0.2)


def test_a_damaged_journal_is_set_aside_after_a_restart_by_systemd(machine: Machine) -> None:
    """The daemon ends, systemd starts it again, and what was blocked stays blocked."""
    machine.run("systemctl", "restart", "agentd")  # what was in the log is in the file now
    machine.wait_for("agentd")
    machine.run(
        "dd", "if=/dev/urandom", "of=/var/lib/agentd/journal.db", "bs=4096", "count=20", "conv=notrunc"
    )
    wait_until(
        lambda: "damaged" in machine.attempt("ls", "/var/lib/agentd").stdout,
        "the file",
        pause=0.2,
    )
    machine.wait_for("agentd")
    assert "the journal is damaged" in machine.log()
    assert machine.answer(BLOCKED) == 403


def test_a_damaged_file_is_healed_within_the_sandbox(machine: Machine) -> None:
    """A list in which somebody changed the address blocks it again."""
    script = (
        f"for f in $(grep -rl {BLOCKED} /etc/nginx/agentd/current/blacklist); do echo '# gone' > $f; done"
    )
    machine.run("sh", "-c", script)
    machine.run("systemctl", "reload", "nginx")
    wait_until(lambda: "tree.restored" in machine.log(), "the file to be healed", pause=0.2)
    wait_until(lambda: machine.answer(BLOCKED) == 403, "nginx to read it", pause=0.2)


def test_an_unusable_tree_does_not_hold_up_nginx_at_boot(machine: Machine) -> None:
    """A sound generation is there, so nginx starts with it long before systemd gives up on agentd."""
    machine.run("systemctl", "stop", "agentd")
    machine.run("rm", "/etc/nginx/agentd/.lock")
    machine.run("mkdir", "/etc/nginx/agentd/.lock")
    try:
        machine.reboot()
        machine.wait_for("nginx")
        waited = int(machine.show("nginx", "InactiveExitTimestampMonotonic")) - int(
            machine.show("agentd", "InactiveExitTimestampMonotonic")
        )
        assert waited < SOON
        assert "a directory" in machine.show("agentd", "StatusText")
        assert machine.answer(BLOCKED) == 403
    finally:
        machine.run("rmdir", "/etc/nginx/agentd/.lock")
    wait_until(lambda: machine.attempt("agentd", "status").returncode == 0, "it to go on", pause=0.5)
