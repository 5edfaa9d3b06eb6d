"""agentd's steps by hand, in one process: poll, write, `nginx -t`, SIGHUP. Nothing is kept, proved or undone.

`python -m tests.bench.by_hand HOST:PORT event:NAME|service:NAME NGINX DIRECTORY` follows an event or a
service for the nginx in DIRECTORY, whose nginx.conf includes conf/by_hand.conf in `http {}` and
conf/marker.conf in its server. /marker answers what is served: the key's beginning, or the instances' ports.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.bare_poll import answers, events

Files = dict[str, bytes]


def tickets(address: str, name: str) -> Iterator[Files]:
    """The files for each new key, of which the event brings the base64."""
    for payload in events(address, name):
        yield {
            "ticket.key": base64.b64decode(payload),
            "by_hand.conf": b"ssl_session_ticket_key ticket.key;\n",
            "marker.conf": marker(payload[:16].decode()),
        }


def upstreams(address: str, name: str) -> Iterator[Files]:
    """The files for each set of passing instances."""
    for found in answers(address, f"/v1/health/service/{name}?passing=1&"):
        servers = sorted(_server(entry["Service"]) for entry in found)
        lines = "".join(f"    server {server};\n" for server in servers)
        yield {
            "by_hand.conf": f"upstream api {{\n    zone api 1m;\n{lines}}}\n".encode(),
            "marker.conf": marker(" ".join(server.rpartition(":")[2] for server in servers)),
        }


def _server(service: Any) -> str:  # noqa: ANN401 (JSON)
    return f"{service['Address']}:{service['Port']}"


def marker(text: str) -> bytes:
    """A location that answers the text."""
    return f'location = /marker {{ return 200 "{text}"; }}\n'.encode()


def main(address: str, follow: str, nginx: str, directory: Path) -> None:
    """Follow until killed."""
    conf = directory / "conf"
    kind, _, name = follow.partition(":")
    for files in (tickets if kind == "event" else upstreams)(address, name):
        for file, content in files.items():
            (conf / f"{file}.new").write_bytes(content)
            (conf / f"{file}.new").rename(conf / file)
        subprocess.run([nginx, "-t", "-q", "-p", directory, "-c", conf / "nginx.conf"], check=True)
        os.kill(int((directory / "nginx.pid").read_text()), signal.SIGHUP)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
