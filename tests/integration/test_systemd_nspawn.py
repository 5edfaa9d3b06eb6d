"""The unit and its drop-ins under a real systemd: what the sandbox permits, what a restart leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.servers.agentd import WAIT
from tests.servers.nspawn import Machine
from tests.servers.waiting import wait_until

HANDLERS: dict[str, Any] = {
    "blacklist": {
        "use": "ip_blacklist",
        "on": [{"event": "ip-blacklist"}],
        "notify": ["nginx-reload", "loader"],
        "options": {"outputs": ["ipset", "nftables"]},
    },
    "loader": {
        "use": "ip_blacklist_loader",
        "options": {"load": ["ipset", "nftables"], "verify_every": "1s"},
        "retry": {"longest": "2s"},
    },
    "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
}
OWN, LATER, OTHER = "203.0.113.5", "203.0.113.6", "203.0.113.7"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a blacklist for nginx and for the kernel, and the drop-in for it, running."""
    with Machine(tmp_path_factory.mktemp("machine")) as made:
        made.configure(HANDLERS)
        made.drop_in("kernel-sets.conf")
        yield made.boot()


@pytest.fixture(autouse=True)
def sound(machine: Machine) -> None:
    """Whatever the test before it did, agentd and nginx run."""
    for unit in ("agentd", "nginx"):
        machine.wait_for(unit)


def blacklist(machine: Machine, *words: str) -> str:
    """Run `agentd blacklist`; a line that is not applied fails the test."""
    return machine.run("agentd", "blacklist", *words, *(WAIT if words[0] == "add" else ()))


def members(machine: Machine) -> list[bool]:
    """Whether ipset and nftables have the address that the tests block."""
    return [
        machine.attempt(*argv).returncode == 0
        for argv in (
            ["ipset", "test", "agentd4", OTHER],
            ["nft", f"get element inet agentd blocked4 {{ {OTHER} }}"],
        )
    ]


def wait_for_members(machine: Machine) -> None:
    """Wait until both have it."""
    wait_until(lambda: all(members(machine)), "the sets to be restored", pause=0.2)


def mended(machine: Machine) -> int:
    """How often the log says that something was restored."""
    return machine.run("journalctl", "--no-pager", "--unit=agentd").count("drift.mended")


def moment(machine: Machine, unit: str, what: str) -> int:
    """When a unit last did something, in microseconds since the boot."""
    return int(machine.show(unit, f"{what}TimestampMonotonic"))


def pid(machine: Machine, unit: str) -> int:
    """The main process of a unit, as the machine numbers it."""
    return int(machine.show(unit, "MainPID"))


def test_agentd_is_ready_before_nginx_starts(machine: Machine) -> None:
    """At boot the first generation is there when nginx starts, which then serves it."""
    ready, started = moment(machine, "agentd", "ActiveEnter"), moment(machine, "nginx", "InactiveExit")

    assert 0 < ready <= started
    assert machine.answer(OTHER) == 200


def test_a_change_is_checked_loaded_and_proved_inside_the_sandbox(machine: Machine) -> None:
    """The check by nginx, its reload, the proof, ipset and nft all work with what unit and drop-in permit."""
    blacklist(machine, "add", OTHER)
    blocked = machine.answer(OTHER)
    wait_for_members(machine)

    why = json.loads(machine.run("agentd", "blacklist", "why", OTHER, "--json"))
    wait_until(lambda: machine.attempt("agentd", "status").returncode == 0, "all to be well", pause=1.0)

    assert (blocked, machine.answer(OWN)) == (403, 200)
    assert why["blocked"]
    assert {one["output"]: one["has"] for one in why["outputs"]} == {
        "ipset agentd4": True,
        "nftables blocked4": True,
    }


def test_the_addresses_of_the_node_are_not_blocked(machine: Machine) -> None:
    """Although the unit hides /proc/net: addresses of interfaces, and those that come later."""
    machine.run("ip", "address", "add", f"{OWN}/32", "dev", "lo")
    blacklist(machine, "add", "203.0.113.4/30")
    before = [machine.answer(one) for one in (OWN, LATER, OTHER)]

    machine.run("ip", "address", "add", f"{LATER}/32", "dev", "lo")
    blacklist(machine, "add", "198.51.100.1")
    after = [machine.answer(one) for one in (OWN, LATER, OTHER)]
    why = json.loads(machine.run("agentd", "blacklist", "why", OWN, "--json"))

    assert (before, after) == ([200, 403, 403], [200, 200, 403])
    assert (why["blocked"], why["never_block"]) == (False, True)


def _harmed(machine: Machine, command: str) -> int:
    """Do harm to the sets; returns how often something had been restored before."""
    before = mended(machine)
    machine.run(*command.split())
    return before


def _mended_since(machine: Machine, before: int) -> bool:
    return mended(machine) > before


def test_kernel_sets_are_restored(machine: Machine) -> None:
    """What a firewall's reload does to the sets is undone within `verify_every`, and logged."""
    blacklist(machine, "add", OTHER)
    wait_for_members(machine)
    for harm in ("nft flush ruleset", "ipset destroy", "ipset flush agentd4"):
        wait_until(partial(_mended_since, machine, _harmed(machine, harm)), "the line in the log", pause=0.2)
        wait_for_members(machine)


def _trouble(machine: Machine) -> str:
    """What `agentd status` says once it names the drop-in."""
    said = machine.attempt("agentd", "status").stdout
    return said if "kernel-sets.conf" in said else ""


def test_without_the_drop_in(machine: Machine) -> None:
    """The daemon says what it lacks and names the drop-in, and so does check; nginx blocks all the same."""
    machine.run("rm", "/etc/systemd/system/agentd.service.d/kernel-sets.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "agentd")
    machine.run("ipset", "flush", "agentd4")
    added = machine.attempt("agentd", "blacklist", "add", "198.51.100.9", "--wait", "10s")

    status = wait_until(lambda: _trouble(machine), "the trouble to be told", pause=1.0)
    check = machine.attempt("agentd", "check")
    blocked = machine.answer("198.51.100.9")
    machine.drop_in("kernel-sets.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "agentd")

    assert added.returncode == 1
    assert "CAP_NET_ADMIN" in status
    assert "agentd.service runs agentd without the capability CAP_NET_ADMIN" in check.stdout
    assert (check.returncode, blocked) == (1, 403)
    wait_for_members(machine)


def test_a_restart_leaves_nginx_alone(machine: Machine) -> None:
    """The master of nginx and its canary go on, and the next change is proved."""
    master = pid(machine, "nginx")

    machine.run("systemctl", "restart", "agentd")
    blacklist(machine, "add", "198.51.100.2")

    assert pid(machine, "nginx") == master
    assert machine.answer("198.51.100.2") == 403


def test_a_killed_agentd_comes_back(machine: Machine) -> None:
    """After SIGKILL systemd starts it again, and it goes on."""
    before = pid(machine, "agentd")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "agentd")

    wait_until(lambda: pid(machine, "agentd") not in (0, before), "another agentd", pause=0.2)
    machine.wait_for("agentd")
    blacklist(machine, "add", "198.51.100.3")

    assert machine.answer("198.51.100.3") == 403


def test_the_watchdog_ends_an_agentd_that_hangs(machine: Machine) -> None:
    """A daemon that gives no sign of life is ended and started again."""
    short = "[Service]\nWatchdogSec=5\n"
    machine.write("/etc/systemd/system/agentd.service.d/watchdog.conf", short)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "agentd")
    before = pid(machine, "agentd")

    machine.run("systemctl", "kill", "--signal=SIGSTOP", "--kill-who=main", "agentd")
    wait_until(lambda: pid(machine, "agentd") not in (0, before), "another agentd", pause=0.2)
    machine.run("rm", "/etc/systemd/system/agentd.service.d/watchdog.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "agentd")

    assert "watchdog" in machine.log().lower()


def test_a_reboot(machine: Machine) -> None:
    """What was committed before it is served, and the kernel's sets, which are gone, are filled again."""
    blacklist(machine, "add", OTHER)

    machine.reboot()

    machine.wait_for("nginx")
    assert machine.answer(OTHER) == 403
    wait_for_members(machine)
