"""What is written beside nginx's `geo` files, in the programs it is for: nft, ipset, HAProxy, `deny`."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.handler import PermanentError, TemporaryError
from agentd.testing import HandlerBench, event, notification
from handlers.ip_blacklist import IPBlacklist
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.union import FILES
from tests.integration.conftest import missing, require
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

URL = "https://lists.example/drop"


@pytest.fixture
def blacklist() -> HandlerBench:
    """All outputs of an entry and a list, of which two addresses are never blocked."""
    options = {
        "never_block": ["198.51.100.7"],
        "never_block_node": False,
        "outputs": ["deny", "nftables", "ipset", "haproxy"],
    }
    made = HandlerBench(IPBlacklist, options)
    made.payloads[URL] = b"198.51.100.0/29\n2001:db8::/64\n10.0.0.0/8\n"
    made.initial()
    made.handle(event("block", f"198.51.100.8/29\nload {URL}"))
    return made


def isolated(script: str) -> str:
    """Run a script as root of a network of its own; return its output."""
    if os.geteuid() != 0:
        missing("a network namespace takes root")
    done = subprocess.run(
        ["unshare", "-n", "sh", "-euc", script], capture_output=True, text=True, timeout=30, check=False
    )
    if "Operation not permitted" in done.stderr:
        missing(f"no network namespaces here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_union_of_all(blacklist: HandlerBench) -> None:
    """The outputs hold entries and lists as one, without what is never blocked."""
    lines = blacklist.files[FILES["haproxy"]].decode().split()

    assert lines == [
        "198.51.100.0/30", "198.51.100.4/31", "198.51.100.6/32", "198.51.100.8/29", "2001:db8::/64",
    ]  # fmt: skip


def test_an_output_that_is_not_wanted_any_more_goes(blacklist: HandlerBench) -> None:
    """Without the option the files are gone."""
    blacklist.restart({"never_block_node": False})

    blacklist.initial()

    assert not set(FILES.values()) & set(blacklist.files)


def test_too_many_deny_lines() -> None:
    """A list too long for `deny` is refused, since every request would pay for it."""
    node = HandlerBench(IPBlacklist, {"outputs": ["deny"], "most_deny": 1, "never_block_node": False})
    node.initial()

    with pytest.raises(PermanentError, match="2 `deny` lines are more than most_deny, 1"):
        node.handle(event("block", "198.51.100.1\n198.51.100.3"))


def test_nftables(blacklist: HandlerBench, directory: Path) -> None:
    """The batch loads, and loads again over itself; the set has the address and not its neighbour."""
    require("nft")
    (directory / "batch").write_bytes(blacklist.files[FILES["nftables"]])
    get = "nft get element inet agentd"

    out = isolated(
        f"cd {directory}; nft -f batch; nft -f batch; {get} blocked4 '{{ 198.51.100.6 }}';"
        f" {get} blocked6 '{{ 2001:db8::1 }}'; ! {get} blocked4 '{{ 198.51.100.7 }}' 2>/dev/null"
    )

    assert "198.51.100.4-198.51.100.6" in out or "198.51.100.6" in out


def test_ipset(blacklist: HandlerBench, directory: Path) -> None:
    """The sets are swapped in, twice over; they have the address and not its neighbour."""
    require("ipset")
    (directory / "batch").write_bytes(blacklist.files[FILES["ipset"]])

    test = "ipset test agentd4"

    out = isolated(
        f"cd {directory}; ipset restore -f batch; ipset restore -f batch; {test} 198.51.100.6 2>&1;"
        f" ipset test agentd6 2001:db8::1 2>&1; ! {test} 198.51.100.7 2>&1; ipset list -n"
    )

    assert "198.51.100.7 is NOT in set agentd4" in out
    assert out.splitlines()[-2:] == ["agentd4", "agentd6"]


def test_the_loader_runs_the_programs(blacklist: HandlerBench) -> None:
    """Notified, the loader hands the batches to nft and ipset."""
    loader = HandlerBench(BlacklistLoader, {"load": ["nftables", "ipset"]}, foreign=blacklist.files)

    loader.handle(notification(2, "blacklist"))

    assert [run.argv[:2] for run in loader.runs] == [
        ("nft", "-f"), ("ipset", "destroy"), ("ipset", "destroy"), ("ipset", "restore"),
    ]  # fmt: skip


def test_the_loader_without_an_output() -> None:
    """An output that the blacklist does not write is a mistake in the configuration, and said so."""
    with pytest.raises(PermanentError, match="name nftables in the blacklist's `outputs`"):
        HandlerBench(BlacklistLoader, {"load": ["nftables"]}).handle(notification(2, "blacklist"))


def test_haproxy_needs_its_socket() -> None:
    """HAProxy without a socket is refused with the configuration."""
    with pytest.raises(ValueError, match="haproxy needs haproxy_socket and haproxy_acl"):
        HandlerBench(BlacklistLoader, {"load": ["haproxy"]})


# ---------------------------------------------------------------- HAProxy


@pytest.fixture
def haproxy(directory: Path) -> Iterator[tuple[Path, Path, int]]:
    """A HAProxy that refuses an (empty) ACL's clients; yields its socket, the ACL's file and its port."""
    require("haproxy")
    runtime, acl, port = directory / "admin.sock", directory / "blocked.acl", free_port()
    acl.write_text("")
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        f"global\n stats socket {runtime} level admin\n"
        "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
        f"frontend web\n bind 127.0.0.1:{port}\n"
        f" http-request deny if {{ req.hdr_ip(x-client) -f {acl} }}\n http-request return status 200\n"
    )
    server = ServerProcess(["haproxy", "-db", "-f", str(configuration)], directory / "haproxy.log")
    server.start(lambda: status(port, "192.0.2.1") == 200)
    yield runtime, acl, port
    server.stop()


def status(port: int, client: str) -> int:
    """What HAProxy answers a client."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nX-Client: {client}\r\n\r\n".encode())
        return int(connection.recv(4096).split()[1])


def test_haproxy(blacklist: HandlerBench, haproxy: tuple[Path, Path, int]) -> None:
    """The ACL is replaced as a whole: blocked clients are denied, neighbours not, and old ones no longer."""
    runtime, acl, port = haproxy
    options = {"load": ["haproxy"], "haproxy_socket": str(runtime), "haproxy_acl": str(acl)}
    HandlerBench(BlacklistLoader, options, foreign=blacklist.files).handle(notification(2, "blacklist"))
    before = [status(port, one) for one in ("198.51.100.6", "198.51.100.7", "2001:db8::1")]

    many = "".join(f"203.0.{n >> 8}.{n & 255}\n" for n in range(0, 1000, 2)).encode()
    files = {FILES["haproxy"]: many}
    HandlerBench(BlacklistLoader, options, foreign=files).handle(notification(3, "blacklist"))
    after = [status(port, one) for one in ("198.51.100.6", "203.0.0.0", "203.0.3.230", "203.0.3.231")]

    assert before == [403, 200, 403]
    assert after == [200, 403, 403, 200]


def test_haproxy_without_the_acl(haproxy: tuple[Path, Path, int]) -> None:
    """An ACL that HAProxy does not know is told, and tried again."""
    options = {"load": ["haproxy"], "haproxy_socket": str(haproxy[0]), "haproxy_acl": "/no/such.acl"}

    with pytest.raises(TemporaryError, match=r"HAProxy has no ACL /no/such\.acl"):
        HandlerBench(BlacklistLoader, options, foreign={FILES["haproxy"]: b""}).handle(notification(2, "b"))


# ---------------------------------------------------------------- nginx's deny


def test_deny(blacklist: HandlerBench, new_nginx: Callable[..., Nginx], directory: Path) -> None:
    """Included in a server, the lines refuse whom they name."""
    rules = directory / "deny.rules"
    rules.write_bytes(blacklist.files[FILES["deny"]])
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.configure(server=f"include {rules};")
    nginx.start()

    answers = [nginx.get(client=one)[0] for one in ("198.51.100.6", "198.51.100.7", "2001:db8::1")]

    assert answers == [403, 200, 403]
