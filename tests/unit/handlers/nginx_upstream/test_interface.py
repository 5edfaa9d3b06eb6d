"""The dynamic-upstream interface: what is sent, what is understood, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import http
from agentd.handler import HandlerError, PermanentError, TemporaryError
from handlers.nginx_upstream.interface import (
    MAX_BYTES,
    Desired,
    Unanswered,
    UpstreamInterface,
    _parse_list,
    _parse_url,
    check_zone,
)
from handlers.nginx_upstream.server import Server
from tests.unit.scripted_http import ScriptedServer, scripted_server

LIST = (
    "server 127.0.0.1:6001 weight=1 max_fails=1 fail_timeout=10;\n"
    "server [::1]:6002 weight=5 max_fails=0 fail_timeout=3 down;\n"
)


def ok(body: str, status: str = "200 OK") -> bytes:
    """An answer as nginx gives it."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
    return f"{head}{body}".encode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ScriptedServer]:
    """The server."""
    with scripted_server(tmp_path / "s") as server:
        server.answers = [ok(LIST)]
        yield server


@pytest.fixture
def interface(served: ScriptedServer, tmp_path: Path) -> Iterator[UpstreamInterface]:
    """A client of it, for the upstream `api`."""
    assert served.request_lines == []
    interface = UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=60.0)
    yield interface
    interface.close()


def test_a_list_is_read(interface: UpstreamInterface, served: ScriptedServer) -> None:
    """By address, with all its parameters."""
    servers = interface.list()

    assert served.request_lines == ["GET /dynamic?upstream=api&verbose= HTTP/1.1"]
    assert servers == {
        "127.0.0.1:6001": Server("127.0.0.1:6001"),
        "[::1]:6002": Server("[::1]:6002", weight=5, max_fails=0, fail_timeout=3, down=True),
    }


@pytest.mark.parametrize(
    "call, query",
    [
        (lambda one: one.update("1.2.3.4:80", Desired(down=True)), "&server=1.2.3.4:80&down="),
        (lambda one: one.update("[::1]:80", Desired(down=False)), "&server=[::1]:80&up="),
        (lambda one: one.update("1.2.3.4:80", Desired(weight=3)), "&server=1.2.3.4:80&weight=3"),
        (
            lambda one: one.update("1.2.3.4:80", Desired(down=True, weight=3)),
            "&server=1.2.3.4:80&weight=3&down=",
        ),
        (lambda one: one.remove("1.2.3.4:80"), "&remove=&server=1.2.3.4:80"),
        (
            lambda one: one.set(Server("1.2.3.4:80", 2, 3, 4, down=True)),
            "&server=1.2.3.4:80&weight=2&max_fails=3&fail_timeout=4",
        ),
        (
            lambda one: one.add(Server("1.2.3.4:80", down=True)),
            "&add=&server=1.2.3.4:80&weight=1&max_fails=1&fail_timeout=10&down=",
        ),
    ],
)
def test_each_operation_is_one_get(
    interface: UpstreamInterface,
    served: ScriptedServer,
    call: Callable[[UpstreamInterface], object],
    query: str,
) -> None:
    """Nothing is encoded, since nothing is decoded; what is answered proves nothing, and is not read."""
    served.answers = [ok("<html>")]
    call(interface)

    assert served.request_lines == [f"GET /dynamic?upstream=api{query} HTTP/1.1"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a b:80",
        "host:80",
        "unix:/run/s",
        "1.2.3.4:80&down=",
        "1.2.3.4:80\r\nX: y",
        "1.2.3.4%3A80",
        "ü:80",
    ],
)
def test_only_ip_addresses_are_sent(interface: UpstreamInterface, served: ScriptedServer, value: str) -> None:
    """A host name can block an nginx worker for ever, and anything else could be misread."""
    with pytest.raises(ValueError, match="IP addresses only"):
        interface.update(value, Desired(down=True))

    assert served.request_lines == []


def test_calls_share_a_connection_until_it_is_closed(
    interface: UpstreamInterface, served: ScriptedServer
) -> None:
    """A look, a change and a look cost one."""
    interface.list()
    interface.update("127.0.0.1:6001", Desired(down=True))
    shared = served.connections
    interface.close()
    interface.list()

    assert (shared, served.connections) == (1, 2)


@pytest.mark.parametrize("value", ["1.2.3.4", "[::1]", "1.2.3.4:0", "host:80", "1.2.3.4:080"])
def test_only_an_address_with_a_port_is_added(
    interface: UpstreamInterface, served: ScriptedServer, value: str
) -> None:
    """The module takes one without a port, and lists it so for ever."""
    with pytest.raises(ValueError, match="needs an IP address and a port"):
        interface.add(Server(value))

    assert served.request_lines == []


def test_an_ipv6_address_is_added_by_lua_alone(
    interface: UpstreamInterface, served: ScriptedServer, tmp_path: Path
) -> None:
    """It hangs a worker with the module."""
    with pytest.raises(PermanentError, match="would hang a worker"):
        interface.add(Server("[::1]:80"))
    assert served.request_lines == []

    lua = UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", module=False)
    lua.add(Server("[::1]:80"))
    lua.close()

    assert len(served.request_lines) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.update("1.2.3.4:80", Desired(weight=0)),
        lambda one: one.update("1.2.3.4:80", Desired(weight=65536)),
        lambda one: one.add(Server("1.2.3.4:80", weight=0)),
        lambda one: one.set(Server("1.2.3.4:80", weight=99999999999999999999)),
        lambda one: one.set(Server("1.2.3.4:80", max_fails=-1)),
        lambda one: one.set(Server("1.2.3.4:80", fail_timeout=99999999999)),
    ],
)
def test_a_number_that_nginx_would_not_start_with_is_not_sent(
    interface: UpstreamInterface, served: ScriptedServer, call: Callable[[UpstreamInterface], object]
) -> None:
    """The module takes weight=0, and more digits than it can hold."""
    with pytest.raises(PermanentError, match="is not sent"):
        call(interface)

    assert served.request_lines == []


def test_what_the_module_does_not_understand_is_refused(
    interface: UpstreamInterface, served: ScriptedServer
) -> None:
    """Its word for a malformed change is 500, which is no outage."""
    served.answers = [ok("why", "500 Internal Server Error")]

    with pytest.raises(PermanentError, match="refused with status 500"):
        interface.update("1.2.3.4:80", Desired(down=True))


@pytest.mark.parametrize("text", ["", "a&b", "a b", "a=b", "a%20", "a\n", "x" * 129])
def test_a_zone_is_a_plain_name(text: str) -> None:
    """It is sent as it is."""
    with pytest.raises(ValueError, match="name of an upstream"):
        check_zone(text)


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "http://", "http://a b/", "http://h:123456/x", "unix:relative", "127.0.0.1:80"],
)
def test_another_kind_of_address_is_refused(url: str) -> None:
    """When the object is made."""
    with pytest.raises(ValueError, match="is needed"):
        UpstreamInterface(url, "api")


@pytest.mark.parametrize(
    "url, target",
    [
        ("http://127.0.0.1:81/dynamic", (http.TCPAddress("127.0.0.1", 81), "/dynamic")),
        ("http://[::1]:81", (http.TCPAddress("::1", 81), "/")),
        ("http://lb1.example/d", (http.TCPAddress("lb1.example", 80), "/d")),
        ("unix:/run/s.sock", (http.UnixAddress("/run/s.sock"), "/")),
    ],
)
def test_urls_are_split(url: str, target: tuple[http.Address, str]) -> None:
    """Into where to connect, and the path."""
    assert _parse_url(url) == target


# ---------------------------------------------------------------- odd answers

ONE = "10.0.0.1:80"
NUMBERS = "weight=1 max_fails=1 fail_timeout=10"
CUT = "the answer was cut off"


@pytest.mark.parametrize(
    "line, server",
    [
        (f"server {ONE} {NUMBERS};", Server(ONE)),
        (f"server {ONE};", Server(ONE)),
        (f"server {ONE} {NUMBERS} down;", Server(ONE, down=True)),
        (f"server {ONE} down {NUMBERS};", Server(ONE, down=True)),
        (f"server {ONE} {NUMBERS} down ;", Server(ONE, down=True)),
        (f"server {ONE} {NUMBERS} backup down;", Server(ONE, backup=True, down=True)),
        (f"server {ONE} weight=0 max_fails=0 fail_timeout=0;", Server(ONE, 0, 0, 0)),
        (f"server {ONE} weight=1 max_fails=1 fail_timeout=10s;", Server(ONE)),
        (f"server {ONE} {NUMBERS} max_conns=5 conns=2 slow_start=30s;", Server(ONE)),
        (f"server [2001:db8::1]:80 {NUMBERS};", Server("[2001:db8::1]:80")),
        (f"server [2001:DB8::1]:80 {NUMBERS};", Server("[2001:DB8::1]:80")),
        (f"server 10.0.0.1 {NUMBERS};", Server("10.0.0.1")),
        (f"server web.example:80 {NUMBERS};", Server("web.example:80")),
        (f"server unix:/run/app.sock {NUMBERS};", Server("unix:/run/app.sock")),
    ],
)
def test_every_way_to_list_a_server_is_read(
    interface: UpstreamInterface, served: ScriptedServer, line: str, server: Server
) -> None:
    """As it is listed: what other implementations add is left out, a missing port is none, and 0 is 0."""
    served.answers = [ok(f"{line}\r\n"), ok(f"{line}\n")]

    assert interface.list() == interface.list() == {server.address: server}


@pytest.mark.parametrize(
    "body, reason",
    [
        ("", "list of servers is empty"),
        ("\n", "not a list of servers"),
        (f"{LIST}\n", "not a list of servers"),
        (f"{LIST}ok\n", "not a list of servers: ok"),
        (f"server {ONE} {NUMBERS}; # x\n", "not a list of servers"),
        (f"server {ONE} {NUMBERS};", "in the middle of a line"),
        (LIST[:-20], "in the middle of a line"),
        ("<html>Welcome</html>\n", "not a list of servers: <html>Welcome</html>"),
        ("server is down;\n", "not a list of servers"),
        ("server ;\n", "not a list of servers"),
        ("server 1.2.3.4:80 weight=1;\nserver 1.2.\n", "not a list of servers"),
        (f"server {ONE} {NUMBERS} DOWN;\n", "unknown word"),
        (f"server {ONE} {NUMBERS} drain;\n", "unknown word"),
        (f"server {ONE} {NUMBERS} down=1;\n", "unknown word"),
        (f"server {ONE} weight=x;\n", "not a number"),
        (f"server {ONE} weight=-1;\n", "not a number"),
        (f"server {ONE} weight=99999999999;\n", "not a number"),
        (f"server {ONE} weight={'9' * 5000};\n", "not a number"),
        (f"server {ONE} max_fails=1e999;\n", "not a number"),
        (f"server {ONE} weight=1 weight=2;\n", "has weight twice"),
        (f"server 10.0.0.1:{'9' * 5000};\n", "not a list of servers"),
        ("server [fe80::1%eth0]:80;\n", "not a list of servers"),
        (f"server {ONE};\x0bserver 10.0.0.2:80 down;\n", "not a list of servers"),
        (f"server {'1.' * 250_000}\n", "not a list of servers"),
        (f"server {ONE}{' x' * 250_000}\n", "not a list of servers"),
        (f"server {ONE};\nserver {ONE} down;\n", f"contradicts itself about {ONE}"),
    ],
)
def test_a_list_that_is_not_understood_as_a_whole_is_an_error(
    interface: UpstreamInterface, served: ScriptedServer, body: str, reason: str
) -> None:
    """One bad line makes all of it doubtful, and an unknown word could mean that a server is out of use."""
    served.answers = [ok(body)]

    with pytest.raises(TemporaryError, match=re.escape(reason)):
        interface.list()


@pytest.mark.parametrize(
    "status, kind, reason",
    [
        ("400 Bad Request", PermanentError, "refused with status 400: why"),
        ("403 Forbidden", PermanentError, "refused with status 403"),
        ("404 Not Found", PermanentError, "404: there is no upstream 'api', or no interface at /dynamic"),
        ("408 Request Timeout", TemporaryError, "answered with status 408"),
        ("429 Too Many Requests", TemporaryError, "answered with status 429"),
        ("204 No Content", TemporaryError, "answered with status 204"),
        ("302 Found", TemporaryError, "answered with status 302"),
        ("500 Internal Server Error", TemporaryError, "answered with status 500: why"),
    ],
)
def test_a_status_says_whether_asking_again_may_help(
    interface: UpstreamInterface, served: ScriptedServer, status: str, kind: type[HandlerError], reason: str
) -> None:
    """A 4xx is a refusal; anything else but 200 may pass."""
    served.answers = [ok("why", status)]

    with pytest.raises(kind, match=reason):
        interface.list()


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", CUT),
        (b"HTTP/2 200 OK\r\n\r\n" + LIST.encode(), "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-", CUT),
        (ok(LIST)[:-20], CUT),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LIST.encode(), "does not say how long it is"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", f"more than {MAX_BYTES} bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LIST.encode() * 200_000, f"more than {MAX_BYTES} bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n", "not HTTP"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(
    interface: UpstreamInterface, served: ScriptedServer, answer: bytes, reason: str
) -> None:
    """However it is cut, and however long it is."""
    served.answers = [answer.replace(b"keep-alive", b"close")]

    with pytest.raises(TemporaryError, match=reason):
        interface.list()


@pytest.mark.parametrize(
    "answer",
    [
        ok(LIST) + b"more",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(LIST), LIST.encode()),
    ],
)
def test_an_answer_ends_where_http_says(
    interface: UpstreamInterface, served: ScriptedServer, answer: bytes
) -> None:
    """In chunks as well; what follows is not part of it."""
    served.answers = [answer]

    assert len(interface.list()) == 2


def test_an_error_quotes_little(interface: UpstreamInterface, served: ScriptedServer) -> None:
    """A load balancer cannot fill the operator's screen."""
    served.answers = [ok("<html>\t" + "x" * 1000)]

    with pytest.raises(TemporaryError) as raised:
        interface.list()

    assert len(str(raised.value)) < 200


@given(st.text(max_size=200))
def test_no_list_raises_anything_else(text: str) -> None:
    """Only TemporaryError, whatever comes."""
    try:
        found = _parse_list(text)
    except TemporaryError:
        return
    assert found


def test_an_answer_that_does_not_end_is_given_up(served: ScriptedServer, tmp_path: Path) -> None:
    """However it hangs, the whole call has one time limit."""
    served.hold.clear()
    served.answers = [ok(LIST)[:-5]]
    began = time.monotonic()

    with pytest.raises(TemporaryError, match=r"timed out after 0\.1 s"):
        UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=0.1).list()

    assert time.monotonic() - began < 20


def test_after_a_time_out_the_module_is_not_asked_again(served: ScriptedServer, tmp_path: Path) -> None:
    """Each question would hang one more worker; until it is told that other workers serve."""
    served.hold.clear()
    served.answers = [ok(LIST)[:-5], ok(LIST)]
    interface = UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=0.1)
    with pytest.raises(Unanswered):
        interface.list()

    for call in (interface.list, lambda: interface.remove("1.2.3.4:80")):
        with pytest.raises(Unanswered, match=r"timed out .*reload it, then end \(kill -9\) the old workers"):
            call()
    served.hold.set()
    asked = len(served.request_lines)
    interface.reset()

    assert asked == 1
    assert len(interface.list()) == 2
    interface.close()


def test_after_a_time_out_lua_is_asked_again(served: ScriptedServer, tmp_path: Path) -> None:
    """It only was slow."""
    served.hold.clear()
    served.answers = [ok(LIST)[:-5], ok(LIST)[:-5]]
    interface = UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=0.1, module=False)

    for _ in range(2):
        with pytest.raises(Unanswered, match=r"^timed out after 0\.1 s[^:]*$"):
            interface.list()


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With the reason, and what to look at."""
    with pytest.raises(TemporaryError, match=r"no such socket; is nginx running, with .*\.conf"):
        UpstreamInterface(f"unix:{tmp_path}/none:/", "api").list()


# ---------------------------------------------------------------- how a server is to be


@given(
    st.builds(Server, st.just(ONE), down=st.booleans(), weight=st.integers(1, 5)),
    st.builds(Desired, st.none() | st.booleans(), st.none() | st.integers(1, 5)),
)
def test_restoring_leads_to_what_was_found(before: Server, desired: Desired) -> None:
    """And touches nothing else."""
    back = desired.restoring(before)
    assert back.met_by(before)
    assert ((back.down is None), (back.weight is None)) == ((desired.down is None), (desired.weight is None))
