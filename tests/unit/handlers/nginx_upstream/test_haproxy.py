"""The HAProxy driver's socket and its reading of HAProxy's answers, without a HAProxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd import haproxy
from agentd.handler import HandlerError, PermanentError, TemporaryError
from handlers.nginx_upstream.haproxy import HAProxyDriver, _slots
from handlers.nginx_upstream.options import UpstreamOptions
from handlers.nginx_upstream.server import Server

COLUMNS = "be_id be_name srv_id srv_name srv_addr srv_port srv_admin_state srv_uweight"
HEAD = f"Name: HAProxy\nPid: 42\n\n1\n# {COLUMNS}\n"


def rows(*slots: str) -> str:
    """The answer of `show info;show servers state api`, with fewer columns than the real one."""
    return HEAD + "".join(f"3 api {at} {slot}\n" for at, slot in enumerate(slots, 1)) + "\n"


class Scripted:
    """A run-time socket that answers each connection with the next of `answers`, or stays silent."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.answers: list[str | None] = []
        self._done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(65536).decode().strip())
                answer = self.answers.pop(0)
                if answer is None:
                    self._done.wait(60)
                    continue
                try:
                    connection.sendall(answer.encode())
                except BrokenPipeError:
                    continue

    def close(self) -> None:
        """End it."""
        self._done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Scripted]:
    """The socket's other end."""
    scripted = Scripted(tmp_path / "s")
    yield scripted
    scripted.close()


@pytest.fixture
def driver(admin: Scripted, tmp_path: Path) -> HAProxyDriver:
    """The driver of the backend `api`."""
    assert admin.asked == []
    return HAProxyDriver(f"unix:{tmp_path}/s", "api", 0.3)


def test_slots_are_read_by_the_names_of_their_columns(driver: HAProxyDriver, admin: Scripted) -> None:
    """Maintenance wins over drain; IPv6 gets its brackets; what has no address yet is free."""
    admin.answers = [
        rows("a 10.0.0.1 80 0 1", "b ::1 81 8 1", "c 10.0.0.3 80 9 1", "d - 0 5 1", "e 127.0.0.1 1 5 1")
    ]

    running = driver.look(None)

    assert running.states == {"10.0.0.1:80": "up", "[::1]:81": "drain", "10.0.0.3:80": "maint"}
    assert running.epoch == "42"
    assert admin.asked == ["show info;show servers state api"]


def test_maintenance_of_an_unknown_address_is_a_free_slot(driver: HAProxyDriver, admin: Scripted) -> None:
    """Else one that was left behind half-way would be taken for an operator's for ever."""
    admin.answers = [rows("a 10.0.0.1 80 1 1", "b 10.0.0.2 80 1 1")]

    assert driver.look(["10.0.0.2:80"]).states == {"10.0.0.2:80": "maint"}


def test_a_slot_is_made_ready_last(driver: HAProxyDriver, admin: Scripted) -> None:
    """Whatever is asked of it before goes nowhere."""
    admin.answers = [rows("a 127.0.0.1 1 5 1"), "\n", rows("a 10.0.0.1 80 0 7")]
    driver.look(None)

    assert len(driver.apply([Server("10.0.0.1:80", weight=7)], {}).changes) == 3
    assert admin.asked[1].split(";") == [
        "set server api/a addr 10.0.0.1 port 80",
        "set server api/a weight 7",
        "set server api/a state ready",
    ]


def test_new_slots_get_names_that_are_free(driver: HAProxyDriver, admin: Scripted) -> None:
    """They are added where no slot is left."""
    admin.answers = [
        rows("agentd1 10.0.0.1 80 0 1"),
        "New server registered.\n",
        rows("agentd1 10.0.0.1 80 0 1", "agentd2 10.0.0.2 80 0 1", "agentd3 10.0.0.3 80 0 1"),
    ]
    driver.look(None)

    driver.apply([Server("10.0.0.1:80"), Server("10.0.0.2:80"), Server("10.0.0.3:80")], {})

    assert [one for one in admin.asked[1].split(";") if one.startswith("add")] == [
        "add server api/agentd2 10.0.0.2:80 weight 1",
        "add server api/agentd3 10.0.0.3:80 weight 1",
    ]


def test_backups_and_the_placeholder_are_not_set(driver: HAProxyDriver, admin: Scripted) -> None:
    """The one stands in HAProxy's configuration, the other is nginx's."""
    admin.answers = [rows("a 10.0.0.1 80 0 1")]
    driver.look(None)

    servers = [Server("10.0.0.1:80"), Server("10.0.0.2:80", backup=True), Server("127.0.0.1:1")]

    assert not driver.apply(servers, {}).changes


@pytest.mark.parametrize(
    "answer, kind, reason",
    [
        ("Can't find backend.\n", PermanentError, "no backend api"),
        ("", TemporaryError, "cut off"),
        ("Permission denied", TemporaryError, "cut off"),
        (rows("a 10.0.0.1 80 0 1").rstrip(), TemporaryError, "cut off"),
        (rows("a 10.0.0.1 80 0 1")[:-1], TemporaryError, "list of servers was cut off"),
        (rows(), PermanentError, "no servers"),
        (rows("a 10.0.0.1 80 x 1"), PermanentError, "srv_admin_state that is not a number: 'x'"),
        (rows("a 10.0.0.1 80 0 " + "9" * 5000), PermanentError, "srv_uweight that is not a number: '999"),
        (rows("a 10.0.0.1 " + "8" * 5000 + " 0 1"), PermanentError, "srv_port that is not a number"),
        (rows("a 10.0.0.1 80 0 -1"), PermanentError, "srv_uweight that is not a number"),
        (rows("a 10.0.0.1 80 0 1e999"), PermanentError, "srv_uweight that is not a number"),
        (rows("a;shutdown 10.0.0.1 80 0 1"), PermanentError, "the name 'a;shutdown'"),
        (rows("a 10.0.0.1 80 0"), PermanentError, "a line of 7 words under 8 columns"),
        (rows("a 10.0.0.1 80 0 1 1"), PermanentError, "a line of 9 words under 8 columns"),
        (rows("a 10.0.0.1 80 0 1", "a 10.0.0.2 80 0 1"), PermanentError, "a server twice"),
        (rows("a 10.0.0.1 80 0 1").replace("Pid: 42", "Pid: "), PermanentError, "no pid"),
        (rows("a 10.0.0.1 80 0 1").replace("42", "4" * 5000), PermanentError, "no pid"),
        *(
            (rows("a 10.0.0.1 80 0 1").replace(column, "other"), PermanentError, f"no column {column}")
            for column in ("srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_uweight")
        ),
        (None, TemporaryError, r"timed out after 0\.3 s"),
        ("x" * 2_000_000, TemporaryError, "more than"),
    ],
)
def test_a_bad_answer_is_a_clear_error(
    driver: HAProxyDriver, admin: Scripted, answer: str | None, kind: type[HandlerError], reason: str
) -> None:
    """In bounded time and space."""
    admin.answers = [answer]

    with pytest.raises(kind, match=reason):
        driver.look(None)


def test_a_socket_without_the_level_says_which_it_needs(driver: HAProxyDriver, admin: Scripted) -> None:
    """Whoever may only look gets the same list."""
    admin.answers = [rows("a 127.0.0.1 1 5 1"), "Permission denied\n\n"]
    driver.look(None)

    with pytest.raises(PermanentError, match="the socket needs `level admin`"):
        driver.apply([Server("10.0.0.1:80")], {})


@given(st.text(alphabet=" #\nabe_idsrv0919-:.%P\x85", max_size=300))
def test_no_list_raises_anything_else(text: str) -> None:
    """Whatever comes."""
    for answer in (text, HEAD + text + "\n\n", f"{HEAD}3 api 1 {text}\n\n"):
        try:
            found = _slots(answer, "api")
        except HandlerError:
            continue
        assert found


def test_what_haproxy_says_against_a_command_is_told(driver: HAProxyDriver, admin: Scripted) -> None:
    """Its own words."""
    admin.answers = [rows("a 127.0.0.1 1 5 1"), "\nBackend must use a dynamic load balancing.\n"]
    driver.look(None)

    with pytest.raises(PermanentError, match="HAProxy says: Backend must use"):
        driver.apply([Server("10.0.0.1:80")], {})


def test_what_was_not_set_is_found_out(driver: HAProxyDriver, admin: Scripted) -> None:
    """Silence is no proof."""
    admin.answers = [rows("a 127.0.0.1 1 5 1"), "\n", rows("a 10.0.0.1 80 0 1")]
    driver.look(None)

    with pytest.raises(TemporaryError, match="do not have the values"):
        driver.apply([Server("10.0.0.1:80", weight=2)], {})


def test_a_tcp_interface_is_connected_to() -> None:
    """And a port on which nobody listens is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(TemporaryError, match="nothing is listening there"):
        haproxy.ask(f"tcp:127.0.0.1:{port}", "show info", 1.0)


@pytest.mark.parametrize(
    "interface",
    ["tcp:127.0.0.1:" + "9" * 5000, "tcp:127.0.0.1:0", "tcp:127.0.0.1:65536", "tcp:127.0.0.1", "unix:x", "x"],
)
def test_an_interface_of_another_form_is_refused(interface: str) -> None:
    """When the options are read, and not when HAProxy is asked."""
    with pytest.raises(ValidationError, match=r"is needed, not|String should match"):
        UpstreamOptions.model_validate({"upstream": "api", "driver": "haproxy", "interface": interface})


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In words."""
    with pytest.raises(TemporaryError, match="there is no such socket"):
        haproxy.ask(f"unix:{tmp_path}/none", "show info", 1.0)
