"""A proxy before a real Consul agent that adds odd events and odd instances to what the agent lists."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from tests.servers.newer_consul import NewerConsul, Points, _Reply, _Request

AS_IT_IS: Final = Points(
    version="", event_body=0, body=0, key_names=False, connections=0, limit_every=0, retry_after="",
    ports=False, streaming=False, filtered=False,
)  # fmt: skip
_INPUTS: Final = Path(__file__).parents[1] / "inputs"
_UUID: Final = "eeeeeeee-0000-0000-0000-0000000000"

_EVENTS: Final[tuple[Any, ...]] = (
    {"ID": "a\tb\nc", "Name": "ip-blacklist", "Payload": "Y2xlYXIgZW50cmllcw==", "LTime": 3},
    {"ID": f"{_UUID}01", "Payload": "Y2xlYXIgZW50cmllcw==", "LTime": 3},
    {"ID": f"{_UUID}02", "Name": "ip-blacklist", "Payload": "Y2xlYXIgZW50cmllcw==", "LTime": "late"},
    {"ID": f"{_UUID}03", "Name": "ip-\ud800blacklist", "Payload": None, "LTime": 3},
    {"ID": None, "Name": "ip-blacklist", "LTime": 3},
    {"ID": ["list"], "Name": {"a": "map"}, "LTime": 3},
    {"Name": "ip-blacklist"},
    "a text",
    None,
    7,
    [],
)


class OddConsul(NewerConsul):
    """Its answers name what no agent lists; each is to be left out, and nothing else."""

    async def _renew(self, request: _Request, reply: _Reply, client: asyncio.StreamReader) -> None:
        await super()._renew(request, reply, client)
        if request.path == "/v1/event/list":
            events = reply.json or []
            # Amid the others: Consul's own event is the newest one.
            reply.body = json.dumps([*events[:-1], *_EVENTS, *events[-1:]]).encode()
        elif request.path.startswith("/v1/health/service/"):
            odd = json.loads((_INPUTS / "instances-odd.json").read_bytes())
            reply.body = json.dumps([*(reply.json or []), *odd]).encode()
