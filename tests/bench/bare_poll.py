"""The least that a program can do between an event and its handler: poll, parse, call.

`python -m tests.bench.bare_poll HOST:PORT NAME FILE` appends "payload time" to FILE for each event NAME, as
the bench's handler does. It journals nothing, forgets all when it ends, and gives up at the first error.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def answers(address: str, path: str) -> Iterator[Any]:
    """The parsed answers to a blocking query, one after the other."""
    connection, index = http.client.HTTPConnection(address), "0"
    while True:
        connection.request("GET", f"{path}index={index}&wait=60s")
        answer = connection.getresponse()
        body = answer.read()
        index = answer.headers["X-Consul-Index"]
        yield json.loads(body)


def events(address: str, name: str) -> Iterator[bytes]:
    """The payloads of the events of this name, each once."""
    seen = set[str]()
    for ring in answers(address, "/v1/event/list?"):
        fresh = [one for one in ring if one["Name"] == name and one["ID"] not in seen]
        seen = {one["ID"] for one in ring}
        yield from (base64.b64decode(one["Payload"] or "") for one in fresh)


def main(address: str, name: str, file: Path) -> None:
    """Note the events until killed."""
    for payload in events(address, name):
        now = time.time()
        with file.open("a") as out:
            out.write(f"{payload.decode()} {now:.6f}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
