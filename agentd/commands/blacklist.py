"""`agentd blacklist`: asks a blacklist of this node what it blocks and why, or hands it lines as events do.

Lines go through the journal, so that the daemon applies them in turn and the history tells of them. Their
query is `local`: no answer of Consul's has it, so that nothing fired in the cluster can claim to be forced.
"""

from __future__ import annotations

import base64
import time
import uuid
from argparse import Namespace
from contextlib import closing
from typing import Any, Final, Protocol, runtime_checkable

import structlog

from agentd.apply.attempt import Batch
from agentd.commands.follow import follow, tell
from agentd.commands.node import Node, open_node
from agentd.commands.output import Output, moment
from agentd.config import ConfiguredHandler
from agentd.errors import AgentdError
from agentd.handler import Context, Handler
from agentd.options import NginxOptions
from agentd.report import log
from agentd.watch.changes import Event

LOCAL: Final = "local"
"""The query of a change that this command owes."""


@runtime_checkable
class Blacklist(Protocol):
    """A handler that can be asked."""

    def listed(self, context: Context) -> dict[str, Any]:
        """What is in force."""

    def why(self, address: str, context: Context) -> dict[str, Any]:
        """What blocks an address or CIDR. Raises ValueError if it is none."""


def execute(arguments: Namespace, output: Output) -> int:
    """Do one of its verbs; 1 if what was owed did not end well."""
    log.configure("warning")
    with open_node(arguments.config) as node:
        configured, handler = _find(node, arguments.handler)
        if arguments.verb == "list":
            return _list(handler.listed, node, configured, output)
        if arguments.verb == "why":
            return _why(handler, arguments.address, node, configured, output)
        return _owe(node, configured, arguments, output)


def line(arguments: Namespace) -> str:
    """The payload's line for what was typed."""
    match arguments.verb:
        case "add":
            words = [
                "add",
                arguments.cidr,
                arguments.ttl,
                f"# {arguments.reason}" if arguments.reason else None,
            ]
        case "remove":
            words = ["remove", arguments.cidr]
        case "clear":
            words = ["clear", arguments.name]
        case _:
            words = ["load", *arguments.source]
    return " ".join(word for word in words if word)


def _find(node: Node, name: str | None) -> tuple[ConfiguredHandler, Blacklist]:
    found: list[tuple[ConfiguredHandler, Blacklist]] = []
    for configured in node.loaded.handlers:
        handler: Handler = configured.build()
        if isinstance(handler, Blacklist) and name in (None, configured.name):
            found.append((configured, handler))
    if len(found) == 1:
        return found[0]
    if not found:
        raise AgentdError(
            f"no handler {name!r} is a blacklist" if name else "no handler that is a blacklist is configured"
        )
    names = ", ".join(configured.name for configured, _ in found)
    raise AgentdError(f"several blacklists are configured ({names}): choose with --handler")


# ------------------------------------------------------------------ lines


def _owe(node: Node, configured: ConfiguredHandler, arguments: Namespace, output: Output) -> int:
    raw = {
        "ID": f"cli-{uuid.uuid4()}",
        "Name": f"agentd blacklist {arguments.verb}",
        "Payload": base64.b64encode(line(arguments).encode()).decode(),
        "LTime": 0,
        "Force": bool(getattr(arguments, "force", False)),
    }
    entry = node.journal.owe(configured.name, Event(LOCAL, raw))
    rows = follow(node, [(entry.handler, entry.id)], arguments.wait)
    if output.json:
        output.document(rows)
    well = tell(rows, output)
    if not node.running:
        output.line("The daemon does not run: this waits in the journal until it does.")
        return 0
    return 0 if well else 1


# ------------------------------------------------------------------ questions


def _context(node: Node, configured: ConfiguredHandler) -> tuple[Batch, Context]:
    batch = Batch(
        handler=configured.name,
        stage=node.tree.stage(configured.name),
        store=node.journal.store(configured.name),
        nginx=node.loaded.config.nginx or NginxOptions(),
        generation=node.tree.current,
        timeout=configured.entry.timeout,
        dry_run=True,
    )
    return batch, batch.context(time.time(), structlog.get_logger().bind(handler=configured.name))


def _list(listed: Any, node: Node, configured: ConfiguredHandler, output: Output) -> int:  # noqa: ANN401 (a bound method of the protocol)
    batch, context = _context(node, configured)
    with closing(batch.stage):
        found = listed(context)
    if output.json:
        output.document(found)
        return 0
    output.table(
        ("LIST", "ENTRIES", "REJECTED", "SINCE", "CHANGE", "NEXT", "STATE"),
        [_row(one) for one in found["lists"]],
        empty="no list is loaded",
    )
    output.line("")
    output.table(
        ("ADDED", "SINCE", "UNTIL", "CHANGE", "REASON"),
        [
            (one["entry"], moment(one["since"]), moment(one["until"]), one["change"], one["reason"])
            for one in found["entries"]
        ],
        empty="no entry was added",
    )
    return 0


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    report, feed = one["report"] or {}, one["feed"]
    state = f"failing: {feed['error']}" if feed and feed["error"] else "forced" if one["overrode"] else "ok"
    coming = moment(feed["next"]) if feed and feed["next"] else None
    return (
        one["name"], report.get("entries"), report.get("rejected"), moment(one["since"]), one["change"],
        coming, state if one["report"] or (feed and feed["error"]) else "not loaded",
    )  # fmt: skip


def _why(handler: Blacklist, address: str, node: Node, configured: ConfiguredHandler, output: Output) -> int:
    batch, context = _context(node, configured)
    with closing(batch.stage):
        try:
            found = handler.why(address, context)
        except ValueError as error:
            raise AgentdError(f"{address}: {error}") from error
    if output.json:
        output.document(found)
        return 0
    output.line(_verdict(found), "red" if found["blocked"] else "green")
    if found["entries"]:
        output.table(
            ("LIST", "ENTRY", "REASON", "CHANGE", "SINCE", "UNTIL", "IN FORCE"),
            [
                (
                    one["list"], one["entry"], one["reason"], one["change"], moment(one["since"]),
                    moment(one["until"]), one["in_force"],
                )
                for one in found["entries"]
            ],
        )  # fmt: skip
    return 0


def _verdict(found: dict[str, Any]) -> str:
    if found["blocked"]:
        return f"{found['address']} is blocked"
    because = (
        ": it is never blocked (never_block, this node, or a watched service)" if found["never_block"] else ""
    )
    return f"{found['address']} is not blocked{because}"
