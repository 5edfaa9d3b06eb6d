"""The interface that `config/nginx/dynamic_upstream.lua` serves, answer by answer, and how it balances."""

from __future__ import annotations

import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from handlers.nginx_upstream.access import doubt
from handlers.nginx_upstream.interface import UpstreamInterface
from tests.servers.backend import Backend
from tests.servers.equipment import require, require_root
from tests.servers.lua import LuaNginx
from tests.servers.nginx import Nginx
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
NewLua = Callable[..., LuaNginx]
A, B, C, D = (f"127.0.0.1:{port}" for port in (6001, 6002, 6003, 6004))
VERBOSE = "weight=1 max_fails=1 fail_timeout=10"


@pytest.fixture
def new_lua(new_nginx: Callable[..., Nginx]) -> NewLua:
    """Make an nginx with Lua and one upstream, `api`, not yet started."""
    require("nginx-lua")

    def make(*servers: str, workers: int = 1, location: str = "", keepalive: int = 0) -> LuaNginx:
        lua = LuaNginx(new_nginx(workers=workers), "api", location=location)
        lua.seed(*servers, keepalive=keepalive)
        return lua

    return make


@pytest.fixture
def lua(new_lua: NewLua) -> LuaNginx:
    """With three servers on which nobody listens."""
    return new_lua(A, f"{B} weight=5 max_fails=2 fail_timeout=3s", f"{C} down").start()


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    """Three that answer."""
    made = [Backend().start() for _ in range(3)]
    yield made
    for backend in made:
        backend.stop()


def listed(lua: LuaNginx) -> list[str]:
    """The servers, without their parameters."""
    return [line.split()[1].rstrip(";") for line in lua.ask("upstream=api")[1].splitlines()]


# ---------------------------------------------------------------- the table of answers


def test_a_list_has_a_line_a_server(lua: LuaNginx) -> None:
    """In the order of the file; one that is down says so."""
    assert lua.ask("upstream=api") == (200, f"server {A};\nserver {B};\nserver {C} down;\n")


def test_a_verbose_list_has_the_parameters(lua: LuaNginx) -> None:
    """Seconds without a unit."""
    other = "weight=5 max_fails=2 fail_timeout=3"

    assert lua.ask("upstream=api&verbose=") == (
        200,
        f"server {A} {VERBOSE};\nserver {B} {other};\nserver {C} {VERBOSE} down;\n",
    )


def test_verbose_needs_its_equals_sign(lua: LuaNginx) -> None:
    """Without it nginx knows no such argument."""
    assert lua.ask("upstream=api&verbose") == lua.ask("upstream=api")


def test_the_answer_is_plain_text_with_its_length(lua: LuaNginx) -> None:
    """So that one that is cut off shows."""
    answer = urllib3.request("GET", f"http://{lua.nginx.address}:{lua.port}/dynamic?upstream=api")

    assert answer.headers["Content-Type"] == "text/plain"
    assert int(answer.headers["Content-Length"]) == len(answer.data)


def test_parameters_are_set(lua: LuaNginx) -> None:
    """And the answer is the verbose list."""
    status, body = lua.ask(f"upstream=api&server={A}&weight=10&max_fails=5&fail_timeout=7")

    assert (status, body.splitlines()[0]) == (200, f"server {A} weight=10 max_fails=5 fail_timeout=7;")


def test_one_parameter_leaves_the_others(lua: LuaNginx) -> None:
    """Only the weight changes."""
    _, body = lua.ask(f"upstream=api&server={B}&weight=2")

    assert body.splitlines()[1] == f"server {B} weight=2 max_fails=2 fail_timeout=3;"


def test_down_and_up(lua: LuaNginx) -> None:
    """Each answers the verbose list, and may be said twice."""
    down = [lua.ask(f"upstream=api&server={A}&down=") for _ in range(2)]
    up = [lua.ask(f"upstream=api&server={A}&up=") for _ in range(2)]

    assert {answer[1].splitlines()[0] for answer in down} == {f"server {A} {VERBOSE} down;"}
    assert {answer[1].splitlines()[0] for answer in up} == {f"server {A} {VERBOSE};"}


def test_a_server_is_added_at_the_end(lua: LuaNginx) -> None:
    """The answer is the plain list, or the verbose one where parameters are given."""
    plain = lua.ask(f"upstream=api&add=&server={D}")
    verbose = lua.ask("upstream=api&add=&server=[::1]:6005&weight=4&max_fails=0&fail_timeout=1")

    assert plain[1].splitlines()[-1] == f"server {D};"
    assert verbose[1].splitlines()[-1] == "server [::1]:6005 weight=4 max_fails=0 fail_timeout=1;"


def test_a_server_is_added_down(lua: LuaNginx) -> None:
    """It never serves in between."""
    _, body = lua.ask(f"upstream=api&add=&server={D}&down=")

    assert body.splitlines()[-1] == f"server {D} {VERBOSE} down;"


def test_a_server_is_removed(lua: LuaNginx) -> None:
    """The answer is the list without it."""
    assert lua.ask(f"upstream=api&remove=&server={A}") == (200, f"server {B};\nserver {C} down;\n")


def test_the_last_server_cannot_be_removed(lua: LuaNginx) -> None:
    """An upstream is never empty."""
    statuses = [lua.ask(f"upstream=api&remove=&server={server}")[0] for server in (A, B, C)]

    assert statuses == [200, 200, 400]
    assert listed(lua) == [C]


@pytest.mark.parametrize(
    "query, status",
    [
        ("", 404),
        ("upstream=", 404),
        ("upstream=other", 404),
        ("upstream=../api", 404),
        (f"upstream=other&server={A}&down=", 404),
        (f"upstream=api&add=&server={A}", 400),
        (f"upstream=api&remove=&server={D}", 400),
        (f"upstream=api&server={D}&down=", 400),
        (f"upstream=api&server={D}&weight=1", 400),
        ("upstream=api&down=", 400),
        ("upstream=api&add=", 400),
        (f"upstream=api&add=&remove=&server={A}", 400),
        (f"upstream=api&up=&down=&server={A}", 400),
        (f"upstream=api&server={A}&weight=", 400),
        (f"upstream=api&server={A}&weight=x", 400),
        (f"upstream=api&server={A}&weight=-1", 400),
        (f"upstream=api&server={A}&weight=0", 400),
        (f"upstream=api&server={A}&weight=1.5", 400),
        (f"upstream=api&server={A}&max_fails=1x", 400),
        (f"upstream=api&server={A}&fail_timeout=10s", 400),
        (f"upstream=api&server={A}&weight=99999999999999", 400),
        (f"upstream=api&server={A.replace(':', '%3A')}&down=", 400),
        ("upstream=api&add=&server=127.0.0.1%3A6009", 400),
        ("upstream=api&add=&server=localhost:80", 400),
        ("upstream=api&add=&server=127.0.0.1", 400),
        ("upstream=api&add=&server=127.0.0.1:0", 400),
        ("upstream=api&add=&server=127.0.0.1:65536", 400),
        ("upstream=api&add=&server=127.0.0.1:80;server", 400),
    ],
)
def test_what_is_refused(lua: LuaNginx, query: str, status: int) -> None:
    """With its status, and nothing changes."""
    before = lua.ask("upstream=api&verbose=")

    assert lua.ask(query)[0] == status
    assert lua.ask("upstream=api&verbose=") == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_only_get_is_taken(lua: LuaNginx, method: str) -> None:
    """As ngx_dynamic_upstream has it."""
    interface = f"http://{lua.nginx.address}:{lua.port}/dynamic"
    assert urllib3.request(method, f"{interface}?upstream=api&server={A}&down=").status == 405
    assert "down" not in lua.ask("upstream=api")[1].splitlines()[0]


def test_the_socket_serves_the_same_interface(lua: LuaNginx) -> None:
    """By default agentd asks there; the directory keeps others away, since nginx lets everybody connect."""
    interface = UpstreamInterface(lua.interface, "api", module=False)

    assert set(interface.list()) == {A, B, C}
    interface.close()
    assert stat.S_IMODE(lua.socket.stat().st_mode) == 0o666
    assert doubt(lua.interface, nginx=True) == ""


@pytest.mark.parametrize("mode, connects", [(0o750, False), (0o755, True)])
def test_another_user_cannot_connect_to_the_socket(lua: LuaNginx, mode: int, connects: bool) -> None:  # noqa: FBT001 (pytest passes parameters by name)
    """By the mode of the directory alone."""
    require_root("run a program as another user")
    lua.socket.parent.chmod(mode)
    script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(lua.socket)!r})"

    tried = subprocess.run(
        ["/usr/bin/python3", "-c", script],
        user=65534,
        group=65534,
        extra_groups=[],
        stderr=subprocess.PIPE,
        check=False,
    )

    assert (tried.returncode == 0) is connects
    assert connects or b"PermissionError" in tried.stderr
    assert bool(doubt(lua.interface, nginx=True)) is connects


def test_the_tcp_listener_is_for_the_machines_allowed(new_lua: NewLua) -> None:
    """An operator's machine gets the list, another one 403, and nothing is changed."""
    lua = new_lua(A, B)
    text = lua.nginx.conf.read_text()
    assert "allow 127.0.0.0/8;" in text
    lua.nginx.conf.write_text(text.replace("allow 127.0.0.0/8;", "allow 10.0.0.5;"))
    lua.start()

    assert lua.ask(f"upstream=api&server={A}&down=")[0] == 403
    interface = UpstreamInterface(lua.interface, "api", module=False)
    assert not interface.list()[A].down
    interface.close()


# ---------------------------------------------------------------- balancing


def test_requests_go_round(new_lua: NewLua, backends: list[Backend]) -> None:
    """By weight, in the smallest steps."""
    first, second, third = backends
    lua = new_lua(f"{first.address} weight=3", second.address, f"{third.address} down").start()

    seen = lua.via(8)

    assert Counter(seen) == {str(first.port): 6, str(second.port): 2}
    assert seen[:4] == seen[4:]


def test_changes_count_at_once_in_every_worker(new_lua: NewLua, backends: list[Backend]) -> None:
    """Down, added, removed: with two workers, without a reload."""
    first, second, third = backends
    lua = new_lua(first.address, second.address, workers=2).start()
    lua.via(20)

    lua.ask(f"upstream=api&server={first.address}&down=")
    down = set(lua.via(20))
    lua.ask(f"upstream=api&add=&server={third.address}")
    added = set(lua.via(20))
    lua.ask(f"upstream=api&remove=&server={second.address}")
    removed = set(lua.via(20))

    assert down == {str(second.port)}
    assert added == {str(second.port), str(third.port)}
    assert removed == {str(third.port)}


def test_idle_connections_are_kept(new_lua: NewLua, backends: list[Backend]) -> None:
    """`keepalive` works beside Lua, also for a server that was added at run time."""
    first, second, _ = backends
    location = 'proxy_http_version 1.1; proxy_set_header Connection "";'
    lua = new_lua(first.address, location=location, keepalive=4).start()
    lua.ask(f"upstream=api&add=&server={second.address}")

    lua.via(20)

    assert (first.connections, second.connections) == (1, 1)


def test_ipv6_is_balanced(new_lua: NewLua) -> None:
    """The address in brackets is one that nginx can connect to."""
    backend = Backend("127.0.0.1").start()
    lua = new_lua("[::1]:9", backend.address).start()

    assert set(lua.via(6)) == {str(backend.port)}
    assert "[::1]:9" in lua.nginx.error_log.read_text()
    backend.stop()


def test_all_down_is_a_502(new_lua: NewLua, backends: list[Backend]) -> None:
    """As nginx itself answers where no server is live."""
    lua = new_lua(backends[0].address, "127.0.0.1:1 down").start()
    lua.ask(f"upstream=api&server={backends[0].address}&down=")

    assert lua.via() == ["502"]


def test_backups_serve_when_nobody_else_does(new_lua: NewLua, backends: list[Backend]) -> None:
    """And are not listed."""
    first, second, _ = backends
    lua = new_lua(first.address, f"{second.address} backup").start()
    before = set(lua.via(6))

    lua.ask(f"upstream=api&server={first.address}&down=")

    assert before == {str(first.port)}
    assert set(lua.via(6)) == {str(second.port)}
    assert listed(lua) == [first.address]


def test_a_request_is_tried_on_the_next_server(new_lua: NewLua, backends: list[Backend]) -> None:
    """Its client sees no error, and the one that failed rests for its fail_timeout."""
    first, second, third = backends
    rests = "fail_timeout=3600s"
    lua = new_lua(f"{first.address} {rests}", second.address, f"{third.address} {rests}").start()
    first.stop()
    third.stop()

    seen = lua.via(12)

    tries = lua.nginx.error_log.read_text().count("connect() failed")
    assert set(seen) == {str(second.port)}
    assert tries == 2


def test_a_server_that_failed_is_asked_again_after_its_time(new_lua: NewLua, backends: list[Backend]) -> None:
    """Once its fail_timeout is over."""
    first, second, _ = backends
    lua = new_lua(f"{first.address} fail_timeout=1s", second.address).start()
    first.stop()
    without = set(lua.via(6))

    first.start()

    assert without == {str(second.port)}
    wait_until(lambda: str(first.port) in lua.via(4), "the first server to be asked again")


def test_up_forgets_what_failed(new_lua: NewLua, backends: list[Backend]) -> None:
    """Whoever puts a server back wants it to serve now."""
    first, second, _ = backends
    lua = new_lua(f"{first.address} fail_timeout=3600s", second.address).start()
    first.stop()
    lua.via(6)
    first.start()

    lua.ask(f"upstream=api&server={first.address}&up=")

    assert set(lua.via(6)) == {str(first.port), str(second.port)}


def test_the_failure_of_a_last_try_counts(new_lua: NewLua, backends: list[Backend]) -> None:
    """Also where nothing is tried twice."""
    first, second, _ = backends
    servers = f"{first.address} fail_timeout=3600s", second.address
    lua = new_lua(*servers, location="proxy_next_upstream off;").start()
    first.stop()

    seen = lua.via(10)

    assert Counter(seen) == {"502": 1, str(second.port): 9}


def test_a_server_that_answers_an_error_has_not_failed(new_lua: NewLua, backends: list[Backend]) -> None:
    """A 502 of the application's own says nothing of the connection."""
    first, second, _ = backends
    lua = new_lua(first.address, second.address).start()
    first.status = 502

    assert Counter(lua.via(6)) == {"502": 3, str(second.port): 3}


def test_changes_at_once_do_not_lose_each_other(new_lua: NewLua) -> None:
    """Two workers, eight clients."""
    lua = new_lua(A, workers=2).start()
    servers = [f"127.0.1.{n}:80" for n in range(1, 81)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda server: lua.ask(f"upstream=api&add=&server={server}"), servers))

    assert {status for status, _ in answers} == {200}
    assert set(listed(lua)) == {A, *servers}


# ---------------------------------------------------------------- reload and restart


def test_the_state_survives_a_reload(new_lua: NewLua, backends: list[Backend]) -> None:
    """Of an unchanged file nothing but the dictionary counts."""
    first, second, third = backends
    lua = new_lua(first.address, second.address).start()
    lua.ask(f"upstream=api&server={first.address}&down=")
    lua.ask(f"upstream=api&add=&server={third.address}&weight=7")
    before = lua.ask("upstream=api&verbose=")

    lua.nginx.reload()

    assert lua.ask("upstream=api&verbose=") == before
    assert str(first.port) not in lua.via(8)


def test_a_changed_file_is_taken_over_with_a_reload(new_lua: NewLua) -> None:
    """Its servers and parameters; what was taken down stays down."""
    lua = new_lua(A, B).start()
    lua.ask(f"upstream=api&server={A}&down=")

    lua.seed(f"{A} weight=3", C)
    lua.nginx.reload()

    assert lua.ask("upstream=api&verbose=")[1] == (
        f"server {A} weight=3 max_fails=1 fail_timeout=10 down;\nserver {C} {VERBOSE};\n"
    )


def test_what_was_put_up_stays_up_over_a_reload_of_a_changed_file(new_lua: NewLua) -> None:
    """The dictionary knows better than a file that was written before."""
    lua = new_lua(f"{A} down", B).start()
    lua.ask(f"upstream=api&server={A}&up=")

    lua.seed(f"{A} down", B, C)
    lua.nginx.reload()

    assert lua.ask("upstream=api") == (200, f"server {A};\nserver {B};\nserver {C};\n")


def test_a_restart_begins_with_the_file(new_lua: NewLua) -> None:
    """The dictionary is gone with the master."""
    lua = new_lua(f"{A} down", B).start()
    lua.ask(f"upstream=api&server={B}&down=")

    lua.nginx.stop()
    lua.nginx.start()

    assert lua.ask("upstream=api") == (200, f"server {A} down;\nserver {B};\n")


def test_a_thousand_servers(new_lua: NewLua) -> None:
    """They fit, and the list is whole."""
    lua = new_lua(*(f"127.0.{n // 250}.{n % 250 + 1}:80" for n in range(1000))).start()

    for n in range(20):
        assert lua.ask(f"upstream=api&server=127.0.0.{n + 1}:80&weight={n + 2}")[0] == 200

    assert len(listed(lua)) == 1000
