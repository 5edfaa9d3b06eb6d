"""What `agentd check` asks the loader before the first change, and what a dry run leaves alone."""

from __future__ import annotations

import socket
import tempfile
from functools import partial
from pathlib import Path

import pytest

from agentd.process import run
from agentd.testing import HandlerHarness
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.outputs import FILES

_BATCH = b"create agentd4_new hash:net family inet maxelem 65536\nadd agentd4_new 192.0.2.1\n"
_BOTH = "cap_chown cap_net_admin"
_FAMILIES = "AF_UNIX AF_INET AF_NETLINK"
_NO_CAPABILITY = "the capability CAP_NET_ADMIN"
_NO_NETLINK = "sockets of the family AF_NETLINK (RestrictAddressFamilies)"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH; it has ipset, whose sets do not exist, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "ipset", 'echo "The set with the given name does not exist" >&2\nexit 1')
    return tmp_path


def program(file: Path, script: str) -> None:
    """Install a program."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def systemctl(directory: Path, capabilities: str, families: str, *, state: str = "loaded") -> None:
    """Install a systemctl that knows a unit with these settings."""
    answer = f"LoadState={state}\nCapabilityBoundingSet={capabilities}\nRestrictAddressFamilies={families}"
    program(directory / "systemctl", f'echo "{answer}"')


def loader(*outputs: str, **options: str) -> HandlerHarness:
    """A loader, and a generation with one address for ipset."""
    settings = {"load": list(outputs)} | options
    return HandlerHarness(BlacklistLoader, settings, foreign={FILES["ipset"]: _BATCH})


def preflight(harness: HandlerHarness) -> list[tuple[str, str]]:
    """The option and the reason of each finding."""
    return [(one.part, one.reason) for one in harness.preflight()]


def test_a_missing_program_is_found(programs: Path) -> None:
    """A program that does not exist is found by its option; one that is there is not."""
    assert (programs / "ipset").exists()

    assert preflight(loader("nftables", "ipset")) == [
        ("nft", "nft does not exist; install nftables or correct its path")
    ]
    assert preflight(loader("ipset", ipset="/no/such")) == [
        ("ipset", "/no/such does not exist; install ipset or correct its path")
    ]


@pytest.mark.parametrize(
    "capabilities,families,lacks",
    [
        (_BOTH, _FAMILIES, ""),
        ("cap_net_admin", "", ""),
        ("cap_net_admin", "~AF_PACKET", ""),
        ("cap_chown", _FAMILIES, _NO_CAPABILITY),
        (_BOTH, "AF_UNIX AF_INET", _NO_NETLINK),
        (_BOTH, "~AF_NETLINK", _NO_NETLINK),
        ("", "AF_UNIX", f"{_NO_CAPABILITY} and {_NO_NETLINK}"),
    ],
)
def test_what_the_unit_withholds(programs: Path, capabilities: str, families: str, lacks: str) -> None:
    """The unit's settings are read as systemd shows them, and the drop-in is named if it is missing."""
    systemctl(programs, capabilities, families)

    found = preflight(loader("ipset"))

    assert len(found) == bool(lacks)
    for part, reason in found:
        assert part == "load"
        assert reason.startswith(f"agentd.service runs agentd without {lacks}: run `agentd example systemd")


@pytest.mark.parametrize("state", ["not-found", "masked"])
def test_where_there_is_no_such_unit(programs: Path, state: str) -> None:
    """Who starts agentd in another way than by its unit is told nothing about it."""
    systemctl(programs, "", "AF_UNIX", state=state)

    assert preflight(loader("ipset")) == []


def test_haproxy_takes_no_rights(programs: Path) -> None:
    """A loader for HAProxy alone needs neither programs nor the drop-in."""
    systemctl(programs, "", "AF_UNIX")

    assert preflight(loader("haproxy", haproxy_socket="/none", haproxy_acl="#0")) == []


def test_a_dry_run_looks_and_mends_nothing(programs: Path) -> None:
    """`agentd check` is told what differs, and nothing is loaded."""
    assert (programs / "ipset").exists()
    harness = HandlerHarness(
        BlacklistLoader,
        {"load": ["ipset"]},
        foreign={FILES["ipset"]: _BATCH},
        run=partial(run, timeout=60.0),
    )
    harness.dry_run = True

    found = harness.verify()

    assert [(one.part, one.reason) for one in found.drift] == [
        ("ipset agentd4", "there is no such set of the right kind"),
        ("ipset agentd6", "there is no such set of the right kind"),
    ]
    assert (found.mended, harness.would_run) == ((), [])


@pytest.mark.parametrize("mode, told", [(0o666, 1), (0o660, 0)])
def test_a_socket_of_haproxy_that_everybody_can_use_is_told(programs: Path, mode: int, told: int) -> None:
    """Who can connect to it can empty the ACL, and more."""
    systemctl(programs, "", "AF_UNIX")
    with tempfile.TemporaryDirectory(prefix="agentd-") as directory, socket.socket(socket.AF_UNIX) as made:
        Path(directory).chmod(0o755)
        made.bind(f"{directory}/s")
        Path(directory, "s").chmod(mode)

        found = preflight(loader("haproxy", haproxy_socket=f"{directory}/s", haproxy_acl="#0"))

    assert [(part, "`mode 660`" in reason) for part, reason in found] == [("haproxy_socket", True)] * told
