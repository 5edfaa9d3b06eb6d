"""What `agentd check` reads in nginx's files; no nginx is asked here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from agentd.commands.checks.finding import Finding
from agentd.commands.checks.nginx import Written
from agentd.nginx.files import NginxFiles
from agentd.nginx.probe import Probe
from agentd.options import NginxOptions
from tests.timing import TIMES, growth

INCLUDE = "include agentd/current/agentd.conf;"
TICKETS = "ssl_session_ticket_key agentd/current/tickets/a.key;\n"
BLOCKED = (
    'geo $agentd_drop { default ""; include ranges; }\nmap "$agentd_drop" $agentd_blocked { default 0; }\n'
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Nginx's directory with a tree that has ticket keys and a blacklist."""
    current = tmp_path / "agentd" / "current"
    for name, text in {"tickets": TICKETS, "blacklist": BLOCKED}.items():
        (current / name).mkdir(parents=True)
        (current / name / f"{name}.conf").write_text(text)
    (current / "agentd.conf").write_text(
        "include agentd/current/*/*.conf;\nserver { listen unix:/x.sock; }\n"
    )
    return tmp_path


def written(directory: Path, text: str) -> Written:
    """nginx.conf with this text, read."""
    (directory / "nginx.conf").write_text(text)
    return Written(NginxFiles(directory / "nginx.conf"), directory / "agentd", "agentd")


def texts(found: Iterable[Finding], directory: Path) -> list[str]:
    """Each finding as "LEVEL FILE:LINE: text", with file names relative to nginx's directory."""
    return [f"{one.level} {one.text}".replace(f"{directory}/", "") for one in found]


def test_the_include_is_found_where_it_is_written(directory: Path) -> None:
    """Also in a file that http {} includes, through a wildcard."""
    (directory / "conf.d").mkdir()
    (directory / "conf.d" / "a.conf").write_text(f"# agentd\n{INCLUDE}\n")

    [include] = written(directory, "http {\n include conf.d/*.conf;\n}\n").includes

    assert (include.place, include.context) == (f"{directory}/conf.d/a.conf:2", "http")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("http { }", ""),
        (f"{INCLUDE}\nhttp {{ }}", "nginx.conf:1: includes the tree in main {}, not in http {}"),
        (f"http {{\n server {{\n {INCLUDE} }} }}", "nginx.conf:3: includes the tree in server {}, not in"),
        ("http { include DIR/agentd/current/agentd.conf; }", "nginx.conf:1: the path is absolute"),
        ("http { include other/current/agentd.conf; }", "nginx.conf:1: includes another tree than tree.path"),
        (f"http {{ # {INCLUDE}\n }}", ""),
    ],
)
def test_a_misplaced_include_is_told_with_its_line(directory: Path, text: str, problem: str) -> None:
    """In another block, of another tree, or by a path that a candidate's check cannot replace."""
    found = written(directory, text.replace("DIR", str(directory))).misplaced().replace(f"{directory}/", "")

    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_a_hash_size_after_the_include_is_told(directory: Path) -> None:
    """Nginx calls it a duplicate once the tree has a map; before the include it is fine."""
    text = f"http {{\n map_hash_max_size 4096;\n {INCLUDE}\n map_hash_bucket_size 128;\n}}"

    [found] = texts(written(directory, text).order(), directory)

    assert found.startswith("warn nginx.conf:4: map_hash_bucket_size is refused after a map")


def test_what_keeps_the_key_from_encrypting_is_named(directory: Path) -> None:
    """With file, line, listener and server name, and how to say that it is meant so."""
    text = f"""http {{ {INCLUDE}
server {{ listen 443 ssl; server_name a.example; }}
server {{ listen 8443 ssl; server_name b.example;
  ssl_session_ticket_key own.key; }}
server {{ listen 9443 ssl; listen [::]:9443 ssl;
  ssl_session_tickets off; }} }}"""

    found = list(written(directory, text).ticket_keys(Probe(None)))

    own, off = texts(found, directory)
    assert own == (
        "FAIL nginx.conf:4: the server has its own ssl_session_ticket_key:"
        " the tree's key does not encrypt on *:8443 (b.example)"
    )
    assert off == "FAIL nginx.conf:6: ssl_session_tickets off: no session tickets on *:9443, [::]:9443"
    assert found[0].advice == "remove that line, or exclude it in `probe`: except *:8443 b.example"


def test_what_is_excluded_is_no_fault(directory: Path) -> None:
    """A listener that is off on purpose."""
    off = "server { listen 8443 ssl; ssl_session_tickets off; }"
    text = f"http {{ {INCLUDE} server {{ listen 443 ssl; }} {off} }}"

    found = written(directory, text).ticket_keys(Probe(["except *:8443"]))

    assert texts(found, directory) == ["ok the tree's ticket keys are used by all servers with TLS (2)"]


def test_keys_that_nginx_ignores_are_told(directory: Path) -> None:
    """Those of a server that is not the default server of its socket: removing them changes nothing."""
    text = f"""http {{ {INCLUDE} server {{ listen 443 ssl; server_name a; }}
server {{ listen 443 ssl; server_name b; ssl_session_ticket_key own.key; }} }}"""

    ignored, used = texts(written(directory, text).ticket_keys(Probe(None)), directory)

    assert ignored.startswith(
        "warn nginx.conf:2: server b (443 ssl) has its own ticket key, which nginx ignores"
    )
    assert used.startswith("ok ")


def test_servers_of_streams_do_not_count(directory: Path) -> None:
    """The keys of http {} are not theirs."""
    text = f"http {{ {INCLUDE} server {{ listen 80; }} }} stream {{ server {{ listen 443 ssl; }} }}"

    found = written(directory, text).ticket_keys(Probe(None))

    assert texts(found, directory) == [
        "warn there are session ticket keys, and no server in http {} listens with ssl"
    ]


@pytest.mark.parametrize(
    "listen, found",
    [
        ("443 ssl", "ok the tree's ticket keys are used by all servers with TLS (1)"),
        ("443 quic reuseport", "ok the tree's ticket keys are used by all servers with TLS (1)"),
        ("80", "warn there are session ticket keys, and no server in http {} listens with ssl"),
    ],
)
def test_listeners_with_tls_use_the_keys(directory: Path, listen: str, found: str) -> None:
    """A tree with ticket keys and no TLS is worth a look."""
    text = f"http {{ {INCLUDE} server {{ listen {listen}; }} }}"

    assert texts(written(directory, text).ticket_keys(Probe(None)), directory) == [found]


def test_no_keys_in_the_tree_nothing_about_tickets(directory: Path) -> None:
    """A node without ticket keys may set them by hand."""
    (directory / "agentd" / "current" / "tickets" / "tickets.conf").write_text("")
    text = f"http {{ {INCLUDE} ssl_session_ticket_key own.key; }}"

    assert texts(written(directory, text).ticket_keys(None), directory) == []


def test_tickets_that_are_off_are_told_before_there_are_keys(directory: Path) -> None:
    """A handler for them is configured; the daemon has not started yet."""
    (directory / "agentd" / "current" / "tickets" / "tickets.conf").write_text("")
    servers = "server { listen 443 ssl; } server { listen 444 ssl; }"
    text = f"http {{ {INCLUDE} ssl_session_tickets off; {servers} }}"

    assert texts(written(directory, text).ticket_keys(Probe(None)), directory) == [
        "FAIL nginx.conf:1: ssl_session_tickets off: no session tickets on *:443, *:444"
    ]


@pytest.mark.parametrize(
    "use, found",
    [
        ("", ["warn $agentd_blocked is not used anywhere, so it has no effect"]),
        ("if ($agentd_blocked) { return 403; }", []),
        ('set $x "${agentd_blocked}1";', []),
    ],
)
def test_a_blacklist_that_nothing_asks_is_told(directory: Path, use: str, found: list[str]) -> None:
    """The variable with the verdict; those that it is made of are used by the tree itself."""
    text = f"http {{ {INCLUDE} server {{ {use} }} }}"

    assert texts(written(directory, text).unused_variables(), directory) == found


@pytest.mark.parametrize(
    "text,told",
    [
        ("pid /run/other.pid;", [("warn", "nginx pid")]),
        ("pid /run/nginx.pid; error_log /srv/e.log; error_log /var/log/nginx/error.log;", []),
        ("error_log /srv/e.log;", [("warn", "nginx error_log")]),
        ("pid logs/nginx.pid; error_log stderr; http { error_log /srv/e.log; }", []),
    ],
)
def test_a_file_that_the_daemon_looks_for_elsewhere_is_told(
    directory: Path, text: str, told: list[tuple[str, str]]
) -> None:
    """Else the daemon may not find nginx, or not learn why it refuses a reload."""
    found = list(written(directory, text).paths(NginxOptions()))
    assert [(one.level, one.subject) for one in found] == told


def test_the_shutdown_timeout_is_found_with_its_line(directory: Path) -> None:
    """A comment does not count."""
    unset = written(directory, "# worker_shutdown_timeout 5s;\nhttp { }").shutdown()
    found = written(directory, "user x;\nworker_shutdown_timeout 5s;\n").shutdown()

    assert (unset.level, found.level) == ("warn", "ok")
    assert found.text == f"{directory}/nginx.conf:2: worker_shutdown_timeout 5s"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("http {\n server {\n", "nginx.conf:2: unexpected end of file"),
        ("http { }\n}\n", 'nginx.conf:2: unexpected "}"'),
        ("http { include none.conf; }", "none.conf: cannot be read: No such file or directory"),
        ("include nginx.conf;", "nginx.conf: includes itself"),
        ("a { " * 5000 + "}" * 5000, "nginx.conf:1: nested too deeply"),
        ("x " * 3_000_000, "nginx.conf: larger than 4194304 bytes"),
        ("http { include ; }", None),
        ("", None),
    ],
)
def test_what_cannot_be_read_is_a_warning(directory: Path, text: str, problem: str | None) -> None:
    """And the rest is still looked at."""
    found = texts(written(directory, text).problems(), directory)

    assert [one.partition(f"warn {problem}")[1] for one in found] == ([f"warn {problem}"] if problem else [])


def test_a_thousand_servers_are_read_in_a_time_that_grows_with_their_number(directory: Path) -> None:
    """Each with a file and a key of its own; ten are named, the others counted."""
    for size, count in (("few", 1000 // TIMES), ("many", 1000)):
        (directory / size).mkdir()
        for number in range(count):
            (directory / size / f"{number}.conf").write_text(
                f"server {{ listen 443 ssl; server_name s{number}; ssl_session_ticket_key k;"
                " location / { } }"
            )

    def look(size: str) -> list[str]:
        nginx = written(directory, f"http {{ {INCLUDE} include {size}/*.conf; }}")
        return texts(nginx.ticket_keys(Probe(None)), directory)

    found = look("many")

    assert growth(look, "few", "many").linear
    assert [one.partition(" ")[0] for one in found] == ["FAIL"] + ["warn"] * 11
    assert found[-1] == "warn and 989 more like these"
