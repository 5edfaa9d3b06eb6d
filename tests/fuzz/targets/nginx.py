"""What nginx says, and what its files hold."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from agentd import http
from agentd.nginx import canary, title
from agentd.nginx.check import _complaint
from agentd.nginx.files import NginxFiles
from agentd.nginx.handshake import alert, ticket_name
from agentd.nginx.syntax import ConfigSyntaxError, parse
from agentd.nginx.tls_listeners import DIRECTIVES, questions
from handlers.nginx_reload.error_log import Mark, emergencies, quote
from tests.fuzz.served import answer, served
from tests.fuzz.target import target


@target(http.ExchangeError)
def nginx_canary(data: bytes) -> None:
    """The body of the canary's answer."""
    with served(answer(data)):
        assert canary.ask(Path("/canary")).pid >= 0


@target()
def nginx_title(data: bytes) -> None:
    """A process may give itself any title."""
    found = title.parse(f"{title.MASTER} {data.decode(errors='surrogateescape')}")
    assert len(found.arguments) <= 6


@target()
def nginx_error_log(data: bytes) -> None:
    """The error log of nginx, and what `nginx -t` prints: one printable line each."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        log = Path(directory, "error.log")
        log.write_bytes(data)
        quoted = quote(emergencies(Mark(log, 0, 0), range(1, 100)))
    assert not quoted or quoted.isprintable()
    assert _complaint(data.decode(errors="replace"))


@target(ConfigSyntaxError)
def nginx_syntax(data: bytes) -> None:
    """One file of nginx's configuration."""
    statements = parse(data.decode(errors="replace"))
    assert all(statement.line for statement in statements)


@target()
def nginx_listeners(data: bytes) -> None:
    """All that is asked of the files: whatever they hold is at most a problem that is told."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        conf = Path(directory, "nginx.conf")
        # Another file than this one is not for a fuzzer to choose.
        conf.write_bytes(data.replace(b"include", b"exclude"))
        found = questions(NginxFiles(conf, DIRECTIVES), Path(directory, "agentd/current"))
    json.dumps([(one.part, one.item, one.sni) for one in found])


@target()
def nginx_tls_records(data: bytes) -> None:
    """What a server sends in a handshake."""
    name = ticket_name(data)
    assert name is None or 0 < len(name) <= 16
    alert(data)
