"""Which handshakes are made, by what nginx's files say; no nginx is asked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.nginx.files import NginxFiles
from agentd.nginx.tls_listeners import DIRECTIVES, Question, address_of, questions, socket_name
from agentd.wire import TCPAddress, UnixAddress

KEYS = "include agentd/current/tickets.conf;"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Nginx's directory, with a tree that has a key."""
    (tmp_path / "agentd" / "current").mkdir(parents=True)
    (tmp_path / "agentd" / "current" / "tickets.conf").write_text("ssl_session_ticket_key a.key;")
    return tmp_path


def asked(directory: Path, http: str, *, main: str = "") -> list[Question]:
    """The questions for what is in http {}."""
    (directory / "nginx.conf").write_text(f"http {{ {http}\n}}\n{main}")
    return questions(NginxFiles(directory / "nginx.conf", DIRECTIVES), directory / "agentd" / "current")


@pytest.mark.parametrize(
    "listen, listener, address",
    [
        ("443 ssl", "*:443", TCPAddress("127.0.0.1", 443)),
        ("*:443 ssl", "*:443", TCPAddress("127.0.0.1", 443)),
        ("0.0.0.0:443 ssl http2", "*:443", TCPAddress("127.0.0.1", 443)),
        ("10.0.0.1:8443 ssl", "10.0.0.1:8443", TCPAddress("10.0.0.1", 8443)),
        ("10.0.0.1 ssl", "10.0.0.1:80", TCPAddress("10.0.0.1", 80)),
        ("[::]:443 ssl ipv6only=on", "[::]:443", TCPAddress("::1", 443)),
        ("[::1] ssl", "[::1]:80", TCPAddress("::1", 80)),
        ("[2001:DB8:0:0::1]:443 ssl", "[2001:db8::1]:443", TCPAddress("2001:db8::1", 443)),
        ("localhost:443 ssl", "127.0.0.1:443", TCPAddress("127.0.0.1", 443)),
        ("unix:/run/tls.sock ssl", "unix:/run/tls.sock", UnixAddress("/run/tls.sock")),
    ],
)
def test_every_form_of_a_listen_is_understood(
    directory: Path, listen: str, listener: str, address: object
) -> None:
    """A wildcard is asked on loopback."""
    [found] = asked(directory, f"{KEYS} server {{ listen {listen}; }}")

    assert (found.listener, found.address) == (listener, address)


@pytest.mark.parametrize(
    "http, main",
    [
        ("server { listen 80; }", ""),
        ("server { }", ""),
        ("server { listen 443 quic reuseport; }", ""),
        ("", "stream { server { listen 443 ssl; } }"),
        ("", "mail { server { listen 993 ssl; } }"),
        ("server { listen 443 ssl; ssl_reject_handshake on; }", ""),
    ],
)
def test_what_has_no_ticket_keys_is_not_asked(directory: Path, http: str, main: str) -> None:
    """Plain HTTP, QUIC, streams, mail, and where every handshake is rejected."""
    assert asked(directory, http, main=main) == []


def test_a_range_of_ports_is_as_many_sockets(directory: Path) -> None:
    """Each is asked."""
    found = asked(directory, f"{KEYS} server {{ listen 127.0.0.1:8443-8445 ssl; }}")

    assert [one.listener for one in found] == ["127.0.0.1:8443", "127.0.0.1:8444", "127.0.0.1:8445"]


@pytest.mark.parametrize("listen", ["9" * 5000, f"*:{'9' * 5000}", f"*:1-{'9' * 5000}", f"{'9' * 5000}-1"])
def test_a_port_without_end_is_asked_nowhere(directory: Path, listen: str) -> None:
    """It is nginx's to refuse it."""
    for question in asked(directory, f"server {{ listen {listen} ssl; }}"):
        assert question.address is None


def test_the_directive_ssl_makes_a_listener_one_of_tls(directory: Path) -> None:
    """As it did before nginx 1.25."""
    [found] = asked(directory, f"{KEYS} server {{ listen 8443; ssl on; }} server {{ listen 80; }}")

    assert found.listener == "*:8443"


def test_one_question_for_each_socket(directory: Path) -> None:
    """Its default server is asked, however many have the socket and however they write it."""
    many = "".join(f"server {{ listen 0.0.0.0:443; server_name s{number}.example; }}" for number in range(50))
    default = "server { listen *:443 default_server; server_name _ www.example; }"

    [found] = asked(directory, f"{KEYS} server {{ listen 443 ssl; }} {many} {default}")

    assert (found.listener, found.server, found.sni) == ("*:443", "www.example", "www.example")


def test_a_wildcard_is_asked_on_an_address_without_its_own_listener(directory: Path) -> None:
    """127.0.0.1 would be answered by the other one."""
    both = "server { listen 443 ssl; } server { listen 127.0.0.1:443 ssl; }"

    wildcard, loopback = asked(directory, KEYS + both)

    assert (wildcard.address, loopback.address) == (
        TCPAddress("127.0.0.2", 443),
        TCPAddress("127.0.0.1", 443),
    )


def test_no_address_left_to_ask_a_wildcard(directory: Path) -> None:
    """IPv6 has one loopback address."""
    both = "server { listen [::]:443 ssl; } server { listen [::1]:443 ssl; }"

    wildcard, _ = asked(directory, KEYS + both)

    assert (wildcard.address, wildcard.unaskable) == (
        None,
        "every loopback address has a listener of its own",
    )


def test_a_host_name_is_not_looked_up(directory: Path) -> None:
    """Only nginx knows what it found."""
    [found] = asked(directory, f"{KEYS} server {{ listen web.example:443 ssl; }}")

    assert (found.listener, found.unaskable) == ("web.example:443", "only nginx knows what address that is")


def test_the_proxy_protocol_belongs_to_the_socket(directory: Path) -> None:
    """Whichever server's `listen` brings it."""
    found = asked(directory, f"{KEYS} server {{ listen 443 ssl; }} server {{ listen 443 proxy_protocol; }}")

    assert [one.proxy_protocol for one in found] == [True]


def test_a_server_that_rejects_handshakes_is_asked_by_another_name(directory: Path) -> None:
    """Its keys are those of the socket all the same."""
    reject = "server { listen 443 ssl default_server; ssl_reject_handshake on;\nssl_session_ticket_key b; }"

    [found] = asked(directory, f"{KEYS} {reject} server {{ listen 443 ssl; server_name *.example; }}")

    assert (found.server, found.sni) == ("*.example", "agentd.example")
    assert found.own == f"{directory}/nginx.conf:2: the server has its own ssl_session_ticket_key"


@pytest.mark.parametrize(
    "server, http",
    [
        ("ssl_session_tickets off;", ""),
        ("", "ssl_session_tickets off;"),
        ("ssl_conf_command Options PrioritizeChaCha,-SessionTicket;", ""),
        ("ssl_session_tickets off;", "ssl_session_tickets on;"),
    ],
)
def test_what_turns_tickets_off_is_found(directory: Path, server: str, http: str) -> None:
    """In the server, or in http {}, by either directive."""
    directive = (server or http).rstrip(";")

    [found] = asked(directory, f"{KEYS} {http} server {{ listen 443 ssl; {server} }}")

    assert found.off == f"{directory}/nginx.conf:1: {directive}"


def test_a_snippet_that_turns_tickets_off_is_told_with_its_own_line(directory: Path) -> None:
    """Included by many servers, it is one cause."""
    (directory / "snippets").mkdir()
    (directory / "snippets" / "ssl.conf").write_text("# modern\nssl_session_tickets off;\n")
    servers = "".join(
        f"server {{ listen 443 ssl; server_name s{number}; include snippets/*.conf; }}" for number in range(9)
    )

    default, other = asked(directory, f"{KEYS} server {{ listen 443 ssl; }} {servers}")

    assert (default.off, other.sni) == ("", "s0")
    assert other.off == f"{directory}/snippets/ssl.conf:2: ssl_session_tickets off"


def test_tickets_that_a_server_turns_on_are_on(directory: Path) -> None:
    """Whatever http {} says; the others are asked once for all of them."""
    servers = "".join(f"server {{ listen 443 ssl; server_name s{number}; }}" for number in range(9))

    default, other = asked(
        directory,
        f"{KEYS} ssl_session_tickets off; server {{ listen 443 ssl; ssl_session_tickets on; }} {servers}",
    )

    assert (default.off, other.off != "", other.sni) == ("", True, "s0")


def test_a_named_server_with_tickets_off_is_asked_as_well(directory: Path) -> None:
    """By its name; one with patterns only cannot be."""
    off = "ssl_session_tickets off;"

    default, named, pattern = asked(
        directory,
        f"{KEYS} server {{ listen 443 ssl; }}\nserver {{ listen 443 ssl; server_name a.example; {off} }}\n"
        f"server {{ listen 443 ssl; server_name ~^b; {off} }}",
    )

    assert (default.sni, named.sni) == ("", "a.example")
    assert (pattern.address, pattern.unaskable) == (None, "its server names are regular expressions")


@pytest.mark.parametrize(
    "http, own",
    [
        (f"{KEYS} ssl_session_ticket_key b;", ""),
        (
            f"\nssl_session_ticket_key b; {KEYS}",
            "nginx.conf:2: this ssl_session_ticket_key comes before those",
        ),
        (
            "\nssl_session_ticket_key b;",
            "nginx.conf:2: http {} has its own ssl_session_ticket_key, and http {}",
        ),
        ("", "http {} does not include the tree's keys"),
    ],
)
def test_the_first_key_encrypts(directory: Path, http: str, own: str) -> None:
    """One below the include of the tree does no harm."""
    [found] = asked(directory, f"{http} server {{ listen 443 ssl; }}")

    assert found.own.replace(f"{directory}/", "").startswith(own)
    assert bool(found.own) == bool(own)


def test_keys_of_a_server_that_is_not_the_default_do_not_count(directory: Path) -> None:
    """Nginx takes the default server's for all names."""
    own = "server { listen 443 ssl; server_name a.example; ssl_session_ticket_key b; }"

    [found] = asked(directory, f"{KEYS} server {{ listen 443 ssl; }} {own}")

    assert found.own == ""


@pytest.mark.parametrize(
    "text, told",
    [
        ("10.0.0.1", "has no port"),
        ("::1:443", "has no port"),
        ("443", "has no port"),
        ("10.0.0.1:0", "is not a port"),
        ("10.0.0.1:65536", "is not a port"),
        ("10.0.0.1:٣", "is not a port"),
        ("web.example:443", "is not an IP address"),
        ("[10.0.0.1]:443", "is not an IP address"),
        ("[fe80::1%eth0]:443", "is not an IP address"),
        ("10.0.0.1:" + "4" * 5000, "is not a port"),
        ("unix:run/x", "must be absolute"),
    ],
)
def test_what_is_no_socket_is_refused(text: str, told: str) -> None:
    """With the form that is wanted."""
    with pytest.raises(ValueError, match=told):
        socket_name(text)


def test_an_address_of_its_own_is_asked_there() -> None:
    """Not on loopback."""
    assert address_of("10.0.0.1:443", ["*:443"]) == TCPAddress("10.0.0.1", 443)
