"""Checks the fleet: its log, the token's rights, the load on Consul's servers, and which events to keep.

Each right is tested by asking Consul. Runs only if `fleet:` is configured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from agentd.commands.checks.consul import rule
from agentd.commands.checks.finding import Finding
from agentd.commands.output import span
from agentd.config.load import ConfiguredHandler, Loaded, OnEvent
from agentd.errors import BadDocument, ConsulError, ConsulRefused, UnknownFormat
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.options import FleetOptions
from agentd.fleet.reader import Reader
from agentd.fleet.receipt import CLOCKS_APART
from agentd.fleet.registration import RULE, SERVICE
from agentd.watch.client import AgentInfo, ConsulClient
from agentd.watch.query import Right

_SUBJECT: Final = "fleet"
_OTHER_NODE: Final = "agentd-check-of-another-node"
# The limits of followers and acknowledgers: one wake of every node per max(0.2 s, N/2000 s), and one document
# of a node per max(1 s, N/300 s).
_SHORTEST_WAKE: Final = 0.2
_WAKES: Final = 2000
_WRITES: Final = 300
_HEAD: Final = 2048  # bytes of a typical head as it is read
_DOCUMENT: Final = 900  # bytes of a document of a busy node


def findings(loaded: Loaded) -> Iterator[Finding]:
    """What each event should be kept as needs no Consul, so it comes even if that cannot be reached."""
    options = loaded.config.fleet
    if options is None:
        return
    yield from _kept(loaded)
    home = loaded.config.consul
    if options.datacenter:
        home = home.at(options.datacenter)
    try:
        client = ConsulClient(home)
    except ConsulError:
        return  # reported by the check of Consul itself
    try:
        info = _info(client)
        missing = list(_rights(client, options, options.node or (info.node if info else "")))
        yield from missing
        if all(one.level != "FAIL" for one in missing):
            yield from _log(client, options)
        yield _load(info, loaded)
    except ConsulError as error:
        where = f" in the datacenter {options.datacenter}" if options.datacenter else ""
        text = f"the fleet {options.name} cannot be reached{where}: {error}"
        yield Finding(
            "FAIL", _SUBJECT, text, "until it can, events are applied as they are heard, and are not kept"
        )
    finally:
        client.close()


def _log(client: ConsulClient, options: FleetOptions) -> Iterator[Finding]:
    """Whether the fleet's log is there and readable."""
    reader = Reader(ConsulKV(client), Keys(options.name))
    try:
        record = reader.record()
    except (BadDocument, UnknownFormat) as error:
        advice = "upgrade agentd on this node"
        if isinstance(error, BadDocument):
            advice = (
                f"delete it with `consul kv delete {reader.keys.record}`: the next message writes it anew"
            )
        yield Finding("FAIL", _SUBJECT, f"{reader.keys.record}: {error}", advice)
        return
    state = "its log is there" if record else "nothing has been written to its log yet"
    yield Finding("ok", _SUBJECT, f"{options.name}: {state}, below {reader.keys.root}")
    yield from _clocks(reader)


def _clocks(reader: Reader) -> Iterator[Finding]:
    """Whether the newest messages are from the future; that a clock is behind shows in no message."""
    now = time.time()
    for name, head in reader.heads().items():
        with suppress(BadDocument, UnknownFormat):
            message = reader.message(name, head.newest) if isinstance(head, Head) and head.count else None
            if message and message.issued - now > CLOCKS_APART:
                off = span(message.issued - now)
                text = f"message {message.num} of {name}, from {message.publisher}, is {off} in the future"
                advice = "check that both hosts run NTP: a time to live and --ttl are off by as much"
                yield Finding("warn", f"{_SUBJECT} clock", text, advice)
                return


# ---------------------------------------------------------------- rights


def _rights(client: ConsulClient, options: FleetOptions, node: str) -> Iterator[Finding]:
    keys = Keys(options.name)
    if not node:
        text = "without agent:read, the name under which this node acknowledges is unknown"
        advice = f"give the token this rule: {rule(('agent', 'read', ''))}, or set fleet.node"
        yield Finding("FAIL", f"{_SUBJECT} node", text, advice)
        return
    try:
        own = keys.node(node)
    except ValueError as error:
        yield Finding("FAIL", f"{_SUBJECT} node", str(error), "set fleet.node")
        return
    if client.authorized("key", "write", own) is None:
        text = "ACLs are disabled: anybody can forge messages and acknowledgements"
        yield Finding("ok", f"{_SUBJECT} acl", text)
        return
    wanted: list[Right] = [
        ("key", "write", own),
        *(("key", "read", prefix) for prefix in (keys.names, keys.every_message, keys.bodies)),
    ]
    if options.relay:
        wanted += [
            ("key", "write", f"{keys.root}{part}/") for part in ("names", "messages", "bodies", "pruned")
        ]
    if options.service:
        wanted.append(("service", "write", SERVICE))
    missing = [right for right in wanted if not client.authorized(*right)]
    for right in missing:
        advice = RULE if right[0] == "service" else rule(right, below=right[2].endswith("/"))
        what = f"the token may not {right[1]} {right[0]} {right[2]!r}"
        yield Finding(
            "FAIL", f"{_SUBJECT} acl", f"{what}: {_lost(right, own)}", f"give it this rule: {advice}"
        )
    if not missing:
        yield Finding(
            "ok", f"{_SUBJECT} acl", "the token has the rights of a node" + " and a relay" * options.relay
        )
    if client.authorized("key", "write", keys.node(_OTHER_NODE)):
        text = "the token may write the acknowledgement of any node: whoever holds it can forge them all"
        advice = "give each node its own token, see `agentd example consul/node.hcl`"
        yield Finding("warn", f"{_SUBJECT} acl", text, advice)


def _lost(right: Right, own: str) -> str:
    """The consequence of lacking the right."""
    resource, access, segment = right
    if resource == "service":
        return "the fleet would not know whether it is healthy"
    if segment == own:
        return "nobody would know what this node runs"
    return "what it hears would not be kept" if access == "write" else "it could not follow the log"


# ---------------------------------------------------------------- load


def _info(client: ConsulClient) -> AgentInfo | None:
    """The Consul agent's description of itself; None without the right to read it."""
    try:
        return client.self_info()
    except ConsulRefused:
        return None


def _load(info: AgentInfo | None, loaded: Loaded) -> Finding:
    """The estimated load on Consul's servers, if every member runs agentd."""
    if info is None:
        text = "without agent:read, the number of nodes is unknown, and so is the load on Consul's servers"
        advice = f"give the token this rule: {rule(('agent', 'read', ''))}"
        return Finding("warn", f"{_SUBJECT} load", text, advice)
    items = [on for one in loaded.handlers for on in one.entry.on]
    names = {on.event for on in items if isinstance(on, OnEvent) and on.keep}
    return Finding("ok", f"{_SUBJECT} load", load(info.members, len(names)))


def load(nodes: int, names: int) -> str:
    """Describe the load of this many nodes and kept names."""
    read = nodes * max(1, names) * _HEAD
    wakes = 1 / max(_SHORTEST_WAKE, nodes / _WAKES)
    return (
        f"if all {nodes} members of the datacenter run agentd: {nodes} blocking queries; per message 1 write,"
        f" {_bytes(read)} read by all nodes together, and {nodes} acknowledgements"
        f" ({_bytes(nodes * _DOCUMENT)}); under a steady stream of messages, at most"
        f" {min(nodes, _WRITES)} acknowledgements and {wakes:.2g} rounds of reads a second"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"  # noqa: PLR2004 (a megabyte)


# ---------------------------------------------------------------- keep


def _kept(loaded: Loaded) -> Iterator[Finding]:
    """The recommended `keep` of each event, as far as it follows from the handler."""
    for handler in loaded.handlers:
        for on in handler.entry.on:
            if isinstance(on, OnEvent) and on.event != "*":
                yield from _recommended(handler, on)


def _recommended(handler: ConfiguredHandler, on: OnEvent) -> Iterator[Finding]:
    subject = f"{_SUBJECT} keep"
    which = f"{on.event!r} of {handler.name}"
    hint = f"the event {which} is not kept: a node that does not hear it never gets it"
    if handler.type.secret_payload:
        if on.keep is None:
            yield Finding("ok", subject, f"{hint}; its payload is secret: to keep it, add it to `trust.seal`")
    elif handler.entry.use == "ip_blacklist":
        if on.keep is None:
            yield Finding("warn", subject, hint, "add `keep: all`: every line counts")
        elif on.keep == "latest":
            text = f"only the latest {which} is kept: a node that was away misses the lines before it"
            yield Finding("warn", subject, text, "set `keep: all`, unless each event contains the whole list")
    elif handler.entry.use == "deploy":
        yield from _of_deploy(handler, on, which, hint)
    elif handler.type.runs_once and on.keep is None:
        text = f"the event {which} is not kept, so nothing runs late"
        yield Finding("ok", subject, f"{text}; add `keep: latest` only if running it late is right")


def _of_deploy(handler: ConfiguredHandler, on: OnEvent, which: str, hint: str) -> Iterator[Finding]:
    dests: tuple[str, ...] = getattr(handler.options, "dests", ())
    single = len(dests) == 1 and not str(dests[0]).endswith("*")
    subject = f"{_SUBJECT} keep"
    if on.keep is None:
        advice = "add `keep: latest`" if single else "add `keep: all`: the name serves more than one `dest`"
        yield Finding("warn", subject, hint, advice)
    elif on.keep == "latest" and not single:
        text = f"only the latest {which} is kept, whichever `dest` it is for"
        yield Finding("warn", subject, text, "set `keep: all`, or give each `dest` an event of its own")
