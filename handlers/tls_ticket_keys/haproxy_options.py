"""The options of a HAProxy that has the ring of ticket keys, and the name of its file in the tree."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from agentd.handler import Duration, HandlerOptions
from agentd.nginx.probe import Probe
from agentd.nginx.ticket_keys import MOST

FILE: Final = "tickets/haproxy.keys"
"""What HAProxy starts with: see `slots`."""


class HAProxyOptions(HandlerOptions):
    """A HAProxy on this node that has the same ring; see docs/tickets.md."""

    socket: str = Field(
        "unix:/run/haproxy/admin.sock",
        description="HAProxy's run-time socket, as unix:/PATH. Whoever can connect to any of HAProxy's"
        " sockets, of whatever `level`, can read and set the keys, so `agentd check` warns of those that"
        " everybody can.",
    )
    timeout: Duration = Field(2.0, gt=0, description="Time limit of one call to the socket.")
    probe: list[str] = Field(
        [],
        max_length=MOST,
        description="HAProxy's listeners that are asked, in a TLS 1.2 handshake, for the key that encrypts:"
        " `ADDRESS:PORT [SERVER NAME]`. Without any, only its memory is read.",
    )
    session_timeout: Duration = Field(
        300.0,
        description="For how long HAProxy lets a session be resumed: its `tune.ssl.lifetime`. In a fleet a"
        " key retires only after the longest one.",
    )

    @field_validator("socket")
    @classmethod
    def _place(cls, socket: str) -> str:
        if not socket.startswith("unix:/"):
            raise ValueError(
                "ticket keys are only sent to a unix socket: on TCP anybody may listen or connect"
            )
        return socket

    @field_validator("probe")
    @classmethod
    def _readable(cls, probe: list[str]) -> list[str]:
        if excepted := [item for item in probe if item.split()[:1] == ["except"]]:
            raise ValueError(f"{excepted[0]!r}: only what is named here is asked, so there is no exception")
        Probe(probe)
        return probe
