"""`agentd fire`: fires a user event through the local Consul agent.

Owns the size limits, which are told before Consul is asked. The payload is never printed.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Final

from agentd.commands.output import Output
from agentd.config import load
from agentd.errors import AgentdError
from agentd.watch.client import ConsulClient

_SAFE: Final = 100
"""Bytes that every Consul delivers; releases that fix CVE-2025-11375 refuse somewhat more."""
_LARGEST: Final = 512
"""Bytes of an encoded event, name and all, in every other release (https://developer.hashicorp.com/consul/commands/event)."""


def execute(arguments: Namespace, output: Output) -> int:
    """Fire, and print the ID that Consul gave the event."""
    payload = _payload(arguments.payload, arguments.file)
    if len(payload) > _LARGEST:
        raise AgentdError(
            f"the payload has {len(payload)} bytes, and Consul's limit is {_LARGEST};"
            " put it into the KV store and watch the key instead"
        )
    if len(payload) > _SAFE:
        sys.stderr.write(
            f"agentd: warning: newer Consul releases refuse payloads of about {_SAFE} bytes or more;"
            f" this one has {len(payload)}\n"
        )
    client = ConsulClient(load(arguments.config).config.consul)
    try:
        identity = client.fire(arguments.name, payload)
    finally:
        client.close()
    if output.json:
        output.document({"id": identity, "name": arguments.name, "bytes": len(payload)})
    output.line(identity)
    return 0


def _payload(text: str | None, file: Path | None) -> bytes:
    """What to fire; one byte more than allowed is enough to know that it is too much."""
    if text == "-" or file == Path("-"):
        return sys.stdin.buffer.read(_LARGEST + 1)
    if file is None:
        return (text or "").encode(errors="surrogateescape")
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST + 1)
    except OSError as error:
        raise AgentdError(f"{file} cannot be read: {error.strerror}") from error
