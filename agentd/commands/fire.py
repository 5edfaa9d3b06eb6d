"""`agentd fire`: fires a user event through the local Consul agent.

Owns what is refused before Consul is asked: a payload that is too large, and one that the fleet would not
accept since events are not signed, as far as this host's configuration says. The payload is never printed.
How far the fleet is with it is for `wait_for_fleet` to find out.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from typing import Final

from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.payload import add_payload_arguments, read_payload
from agentd.commands.to_consul import consul, nothing_yet
from agentd.commands.to_fleet import add_fleet_arguments, fleet, trust_here
from agentd.commands.wait_for_fleet import FleetWait, add_wait_for_fleet
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.http import ConnectError, ExchangeError
from agentd.watch.client import ConsulClient
from agentd.watch.release import LARGEST_EVENT, SMALL_BODY, too_large

_INSTEAD: Final = (
    "put it into Consul's KV store, and fire a reference to it, such as kv:PATH, if the handler takes one, or"
    " have the handler watch the key (`on: [{key: PATH}]`)"
)


def add_arguments(parser: Parser) -> None:
    """The event's name and payload."""
    parser.add_example(
        'agentd fire ip-blacklist "add 192.0.2.7 10m"',
        "agentd fire tls-session-ticket-refresh --file key.b64",
        'agentd fire ip-blacklist "add 192.0.2.7 10m" --wait --quorum 90%',
    )
    parser.add_exit_status("0 if it was fired, with --wait once enough nodes have applied it; 1 if not.")
    parser.usage = "%(prog)s [options] NAME [PAYLOAD]"
    parser.add_argument("name", type=argument_types.word, metavar="NAME", help="name of the event")
    add_payload_arguments(parser)
    add_wait_for_fleet(parser)
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Fire, and print the ID that Consul gave the event; with `--wait` also how far the fleet is with it."""
    payload = read_payload(arguments, LARGEST_EVENT)
    _refuse(too_large(arguments.name, len(payload), ""))
    if payload:
        _refuse_unsigned(arguments)
    if not arguments.wait:
        told = _fire(arguments, payload)
        output.line(str(told["id"]))
        enough = True
    else:
        with fleet(arguments) as reached:
            wait = FleetWait(reached.name, reached.client, arguments.name, arguments)
            with nothing_yet("fired"):
                since = wait.begin()
            told = _fire(arguments, payload, wait.end)
            output.line(str(told["id"]))
            enough = wait.conclude(lambda: wait.find_event(str(told["id"]), since), told, output)
    if output.json:
        output.document(told)
    return int(not enough)


def _fire(arguments: Namespace, payload: bytes, end: float = math.inf) -> dict[str, object]:
    """What is told of the event. Consul must have answered by `end`, in monotonic seconds."""
    with consul(arguments) as client:
        client.end_by(end)
        if len(payload) > SMALL_BODY:
            with nothing_yet("fired"):
                _ask_release(client, arguments.name, len(payload))
        try:
            identity = client.fire(arguments.name, payload)
        except ConsulUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, ExchangeError) and not isinstance(cause, ConnectError):
                raise ConsulUnavailable(f"{error}; the event may or may not have been fired") from error
            raise
    return {"id": identity, "name": arguments.name, "bytes": len(payload)}


def _refuse_unsigned(arguments: Namespace) -> None:
    """Raises AgentdError if nodes with this host's section `trust:` refuse such an event for its payload."""
    trust = trust_here(arguments)
    if trust is None:
        return
    name = arguments.name
    if trust.require:
        why = "nodes refuse an event with a payload (`trust.require: signed`), since nobody signs events"
    elif trust.seals(name):
        why = "its payload is secret (`trust.seal`), and everyone in the cluster could read that of an event"
    else:
        return
    raise AgentdError(
        f"not fired: {why}: use `agentd publish {name}`, where a publisher's key is; for something other than"
        " agentd, use `consul event`"
    )


def _refuse(why: str) -> None:
    if why:
        raise AgentdError(f"{why}; {_INSTEAD}")


def _ask_release(client: ConsulClient, name: str, size: int) -> None:
    """Refuse what this agent will not take; warn of what a newer one will not."""
    try:
        version = client.self_info().version
    except ConsulRefused:  # without agent:read
        version = ""
    _refuse(too_large(name, size, version))
    sys.stderr.write(
        f"agentd: warning: from Consul 1.22 on a payload may have {SMALL_BODY} bytes; this one has {size}\n"
    )
