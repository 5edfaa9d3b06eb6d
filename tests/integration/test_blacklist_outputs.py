"""What is written beside nginx's `geo` files: in HAProxy and as `deny`. For the kernel: test_kernel_sets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agentd.handler import PermanentError, TemporaryError
from agentd.haproxy import ask
from agentd.process import run
from agentd.testing import HandlerHarness, event, notification
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.outputs import FILES
from tests.servers.equipment import require
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

URL = "https://lists.example/drop"


@pytest.fixture
def blacklist() -> HandlerHarness:
    """All outputs of an entry and a list, of which two addresses are never blocked."""
    options = {
        "never_block": ["198.51.100.7"],
        "never_block_node": False,
        "outputs": ["deny", "nftables", "ipset", "haproxy"],
    }
    made = HandlerHarness(IPBlacklist, options)
    made.payloads[URL] = b"198.51.100.0/29\n2001:db8::/64\n10.0.0.0/8\n"
    made.initial()
    made.handle(event("block", f"198.51.100.8/29\nload {URL}"))
    return made


def test_the_union_of_all(blacklist: HandlerHarness) -> None:
    """The outputs hold entries and lists as one, without what is never blocked."""
    lines = blacklist.files[FILES["haproxy"]].decode().split()

    assert lines == [
        "198.51.100.0/30", "198.51.100.4/31", "198.51.100.6", "198.51.100.8/29", "2001:db8::/64",
    ]  # fmt: skip


def test_an_output_that_is_not_wanted_any_more_goes(blacklist: HandlerHarness) -> None:
    """Without the option the files are gone."""
    blacklist.restart({"never_block_node": False})

    blacklist.initial()

    assert not set(FILES.values()) & set(blacklist.files)


def test_too_many_deny_lines() -> None:
    """A list too long for `deny` is refused, since every request would pay for it."""
    node = HandlerHarness(IPBlacklist, {"outputs": ["deny"], "most_deny": 1, "never_block_node": False})
    node.initial()

    with pytest.raises(PermanentError, match="2 `deny` lines are more than most_deny, 1"):
        node.handle(event("block", "198.51.100.1\n198.51.100.3"))


def test_the_loader_without_an_output() -> None:
    """An output that the blacklist does not write is a mistake in the configuration, and said so."""
    with pytest.raises(PermanentError, match="add nftables to the blacklist's `outputs`"):
        HandlerHarness(BlacklistLoader, {"load": ["nftables"]}).handle(notification(2, "blacklist"))


def test_haproxy_needs_its_socket() -> None:
    """HAProxy without a socket is refused with the configuration."""
    with pytest.raises(ValueError, match="haproxy needs haproxy_socket and haproxy_acl"):
        HandlerHarness(BlacklistLoader, {"load": ["haproxy"]})


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
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nX-Client: {client}\r\n\r\n".encode())
        return int(connection.recv(4096).split()[1])


def test_haproxy(blacklist: HandlerHarness, haproxy: tuple[Path, Path, int]) -> None:
    """The ACL is replaced as a whole: blocked clients are denied, neighbours not, and old ones no longer."""
    runtime, acl, port = haproxy
    options = {"load": ["haproxy"], "haproxy_socket": str(runtime), "haproxy_acl": str(acl)}
    HandlerHarness(BlacklistLoader, options, foreign=blacklist.files).handle(notification(2, "blacklist"))
    before = [status(port, one) for one in ("198.51.100.6", "198.51.100.7", "2001:db8::1")]

    many = "".join(f"203.0.{n >> 8}.{n & 255}\n" for n in range(0, 1000, 2)).encode()
    files = {FILES["haproxy"]: many}
    HandlerHarness(BlacklistLoader, options, foreign=files).handle(notification(3, "blacklist"))
    after = [status(port, one) for one in ("198.51.100.6", "203.0.0.0", "203.0.3.230", "203.0.3.231")]

    assert before == [403, 200, 403]
    assert after == [200, 403, 403, 200]


def test_haproxy_that_was_restarted(blacklist: HandlerHarness, haproxy: tuple[Path, Path, int]) -> None:
    """Entries that are gone or too many in HAProxy are told and put right, and nothing else is."""
    runtime, acl, port = haproxy
    options = {"load": ["haproxy"], "haproxy_socket": str(runtime), "haproxy_acl": str(acl)}
    made = HandlerHarness(BlacklistLoader, options, foreign=blacklist.files, run=partial(run, timeout=60.0))

    first, again = made.verify(), made.verify()
    ask(f"unix:{runtime}", f"del acl {acl} 198.51.100.6;add acl {acl} 203.0.113.9", 10.0)
    altered = made.verify()

    assert [(one.part, one.reason) for one in first.mended] == [
        (f"HAProxy {acl}", "5 of 5 entries are missing, such as 198.51.100.0/30")
    ]
    assert (again.mended, first.drift + again.drift + altered.drift) == ((), ())
    assert "missing, such as 198.51.100.6, and 1 entries are not the" in altered.mended[0].reason
    assert [status(port, one) for one in ("198.51.100.6", "203.0.113.9")] == [403, 200]


def test_haproxy_that_does_not_answer(directory: Path) -> None:
    """A HAProxy that is not there is drift that names its socket."""
    options = {"load": ["haproxy"], "haproxy_socket": str(directory / "none"), "haproxy_acl": "#0"}
    made = HandlerHarness(
        BlacklistLoader, options, foreign={FILES["haproxy"]: b""}, run=partial(run, timeout=60.0)
    )

    [drift] = made.verify().drift

    assert (drift.part, f"HAProxy's socket {directory}/none" in drift.reason) == ("haproxy", True)


def test_a_version_that_is_not_committed_goes(haproxy: tuple[Path, Path, int]) -> None:
    """A load that HAProxy rejects leaves nothing of it in its memory."""
    runtime, acl, _ = haproxy
    options = {"load": ["haproxy"], "haproxy_socket": str(runtime), "haproxy_acl": str(acl)}
    files = {FILES["haproxy"]: b"203.0.113.0/24\nnonsense\n"}

    with pytest.raises(TemporaryError, match="HAProxy rejects an entry"):
        HandlerHarness(BlacklistLoader, options, foreign=files).handle(notification(2, "b"))

    assert ask(f"unix:{runtime}", f"show acl @1 {acl}", 10.0).strip() == ""


def test_haproxy_without_the_acl(haproxy: tuple[Path, Path, int]) -> None:
    """An ACL that HAProxy does not know is told, and tried again."""
    options = {"load": ["haproxy"], "haproxy_socket": str(haproxy[0]), "haproxy_acl": "/no/such.acl"}

    with pytest.raises(TemporaryError, match=r"HAProxy has no ACL /no/such\.acl"):
        HandlerHarness(BlacklistLoader, options, foreign={FILES["haproxy"]: b""}).handle(notification(2, "b"))


# ---------------------------------------------------------------- nginx's deny


def test_deny(blacklist: HandlerHarness, new_nginx: Callable[..., Nginx], directory: Path) -> None:
    """Included in a server, the lines refuse whom they name."""
    rules = directory / "deny.rules"
    rules.write_bytes(blacklist.files[FILES["deny"]])
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.configure(server=f"include {rules};")
    nginx.start()

    answers = [nginx.get(client=one)[0] for one in ("198.51.100.6", "198.51.100.7", "2001:db8::1")]

    assert answers == [403, 200, 403]
