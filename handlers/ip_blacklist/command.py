"""`agentd blacklist`: shows what this node's blacklist blocks and why, or changes it with an event's lines.

Lines go through the journal, so that the daemon applies them in turn and they appear in the history. Their
query is `local`, which no answer from Consul has, so nothing fired in the cluster can pass itself off as
forced.
"""

from __future__ import annotations

import base64
import uuid
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, Final

from agentd.command import (
    AgentdError,
    ConfiguredHandler,
    Node,
    Output,
    Parser,
    add_command,
    add_wait,
    moment,
    open_node,
    report_outcomes,
    word,
)
from agentd.handler import Event
from handlers.ip_blacklist.handler import LOCAL, IPBlacklist
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.ranges import parse_cidr

HELP: Final = "show what is blocked and why, or change it on this node"


def add_arguments(parser: Parser) -> None:
    """A verb, and what each verb takes."""
    parser.add_example(
        "sudo agentd blacklist why 192.0.2.7", "sudo agentd blacklist add 192.0.2.0/24 10m --reason scan"
    )
    parser.add_argument(
        "--handler", type=word, metavar="HANDLER", help="which blacklist, if several are configured"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = add_command(verbs, "add", "block an address or CIDR")
    add.add_example("sudo agentd blacklist add 192.0.2.0/24 10m --reason scan")
    add.add_argument("cidr", type=word, metavar="CIDR", help="what to block: an address or CIDR")
    add.add_argument(
        "ttl", type=word, nargs="?", metavar="TTL", help="for how long, such as 10m (default: for good)"
    )
    add.add_argument("--reason", type=word, metavar="TEXT", help="why; shown by `why` and `list`")
    remove = add_command(verbs, "remove", "stop blocking an address or CIDR, whatever blocked it")
    remove.add_example("sudo agentd blacklist remove 192.0.2.0/24")
    remove.add_argument("cidr", type=word, metavar="CIDR", help="what to unblock: an address or CIDR")
    load = add_command(verbs, "load", "fetch a list and replace the version in force")
    load.add_example("sudo agentd blacklist load drop", "sudo agentd blacklist load --force drop")
    load.usage = "%(prog)s [options] [LIST] [REFERENCE [sha256:HEX]]"
    load.add_argument(
        "source",
        type=word,
        nargs="+",
        metavar="LIST|REFERENCE",
        help="name of the list, where to fetch it from (such as a URL), or both",
    )
    load.add_argument("--force", action="store_true", help="override the guards, this once")
    clear = add_command(verbs, "clear", "empty a list; `entries` empties all that was added one by one")
    clear.add_example("sudo agentd blacklist clear drop", "sudo agentd blacklist clear entries")
    clear.add_argument("name", type=word, metavar="LIST", help="name of the list, or `entries`")
    for verb in (add, remove, load, clear):
        add_wait(verb)
    shown = add_command(verbs, "list", "show entries, lists and feeds")
    shown.add_example("sudo agentd blacklist list")
    why = add_command(verbs, "why", "show whether an address is blocked, and by what")
    why.add_example("sudo agentd blacklist why 192.0.2.7")
    why.add_argument("address", type=word, metavar="ADDRESS", help="an address or CIDR")


def execute(arguments: Namespace, output: Output) -> int:
    """Run one of the verbs; 1 if a line was not applied."""
    with open_node(arguments.config) as node:
        configured, handler = _find(node, arguments.handler)
        if arguments.verb == "list":
            return _list(handler, node, configured, output)
        if arguments.verb == "why":
            return _why(handler, arguments.address, node, configured, output)
        return _submit(node, configured, arguments, output)


def line(arguments: Namespace) -> str:
    """The line of a payload for what was typed."""
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


def _find(node: Node, name: str | None) -> tuple[ConfiguredHandler, IPBlacklist]:
    found: dict[str, tuple[ConfiguredHandler, IPBlacklist]] = {}
    for configured in node.loaded.handlers:
        handler = configured.build()
        if isinstance(handler, IPBlacklist):
            found[configured.name] = (configured, handler)
    if not found:
        raise AgentdError("no handler with `use: ip_blacklist` is configured")
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    names = ", ".join(found)
    if name is not None:
        raise AgentdError(f"there is no blacklist {name!r}: this node has {names}")
    raise AgentdError(f"several blacklists are configured ({names}): choose one with --handler")


# ------------------------------------------------------------------ lines


def _submit(node: Node, configured: ConfiguredHandler, arguments: Namespace, output: Output) -> int:
    raw = {
        "ID": f"cli-{uuid.uuid4()}",
        "Name": f"agentd blacklist {arguments.verb}",
        "Payload": base64.b64encode(line(arguments).encode()).decode(),
        "LTime": 0,
        "Force": bool(getattr(arguments, "force", False)),
    }
    entry = node.submit(configured.name, Event(LOCAL, raw))
    well = report_outcomes(node, [entry], arguments.wait, output)
    return int(node.running and not well)


# ------------------------------------------------------------------ questions


def _list(handler: IPBlacklist, node: Node, configured: ConfiguredHandler, output: Output) -> int:
    with node.ask(configured) as context:
        found = handler.listed(context)
    if output.json:
        output.document(found)
        return 0
    output.table(
        ("LIST", "ENTRIES", "REJECTED", "SINCE", "CHANGE", "NEXT", "STATE"),
        [_row(one) for one in found["lists"]],
        empty="No list is loaded.",
    )
    output.line("")
    output.table(
        ("ADDED", "SINCE", "UNTIL", "CHANGE", "REASON"),
        [
            (one["entry"], moment(one["since"]), moment(one["until"]), one["change"], one["reason"])
            for one in found["entries"]
        ],
        empty="No entry was added.",
    )
    return 0


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    report, feed = one["report"] or {}, one["feed"]
    state = f"failing: {feed['error']}" if feed and feed["error"] else "forced" if one["overrode"] else "ok"
    coming = moment(feed["next"]) if feed and feed["next"] else None
    if feed and feed["asked"]:
        coming = "under way"
    return (
        one["name"], report.get("entries"), report.get("rejected"), moment(one["since"]), one["change"],
        coming, state if one["report"] or (feed and feed["error"]) else "not loaded",
    )  # fmt: skip


def _why(
    handler: IPBlacklist, address: str, node: Node, configured: ConfiguredHandler, output: Output
) -> int:
    with node.ask(configured) as context:
        try:
            found = handler.why(address, context)
        except ValueError as error:
            raise AgentdError(f"{address}: {error}") from error
    found["outputs"] = list(_outputs(found["address"], node))
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
    if found["outputs"]:
        output.table(
            ("OUTPUT", "ASKED ABOUT", "HAS IT", "NOT KNOWN BECAUSE"),
            [(one["output"], one["address"], one["has"], one["trouble"]) for one in found["outputs"]],
        )
    return 0


def _outputs(cidr: str, node: Node) -> Iterator[dict[str, Any]]:
    """What the kernel's sets and HAProxy have now, as they say themselves: of a CIDR, its first address."""
    block = parse_cidr(cidr)
    for configured in node.loaded.handlers:
        loader = configured.build()
        if isinstance(loader, BlacklistLoader):
            for part, has, trouble in loader.holds(block):
                yield {"output": part, "has": has, "address": cidr.partition("/")[0], "trouble": trouble}


def _verdict(found: dict[str, Any]) -> str:
    by = f"by generation {found['generation']}"
    if found["blocked"]:
        also = ", though it is never to be blocked: restart agentd" if found["never_block"] else ""
        return f"{found['address']} is blocked {by} ({', '.join(found['files'])}){also}"
    because = (
        ": it is never blocked (never_block, private, this node, or a watched service)"
        if found["never_block"]
        else ""
    )
    return f"{found['address']} is not blocked {by}{because}"
