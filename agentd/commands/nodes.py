"""`agentd nodes`: where the instances of a service are, according to the catalogue.

Owns the choice by tag and status, and that only addresses are printed: whoever can register a service chooses
the text, and what is printed ends up in commands such as `ssh $(agentd nodes web)`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.to_consul import add_consul_arguments, consul
from agentd.errors import AgentdError
from agentd.watch.changes import Instance
from agentd.watch.lookup import find_instances

_COLUMNS: Final = ("ADDRESS", "PORT", "NODE", "STATUS", "TAGS")
_FIELDS: Final = ("node", "address", "port", "tags", "status")
_LONGEST_NAME: Final = 253
# The last label begins with a letter: `127.1` and `0x7f.1` are addresses to some programs.
_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_MOST_TOLD: Final = 10


def add_arguments(parser: Parser) -> None:
    """Which instances."""
    parser.add_example("agentd nodes web --passing", "agentd nodes web | xargs -I{} ssh {} uptime")
    parser.add_exit_status(
        "0 if every instance is listed; 1 if one was left out, which standard error names."
    )
    parser.usage = "%(prog)s [options] SERVICE"
    parser.add_argument("service", type=argument_types.word, metavar="SERVICE", help="name of the service")
    parser.add_argument("--tag", type=argument_types.word, metavar="T", help="only instances with this tag")
    parser.add_argument("--passing", action="store_true", help="only instances whose checks are all passing")
    parser.add_argument(
        "--names", action="store_true", help="print instances registered under a host name as well"
    )
    parser.add_argument("--plain", action="store_true", help="one address per line, even on a terminal")
    add_consul_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Print the addresses, sorted, each once; on a terminal a table of the instances.

    Returns:
        0, or 1 if an instance was left out because its address is none, or it has none.

    Raises:
        AgentdError: there is none.
        ConsulRefused: the token may not see whether there is one.
    """
    with consul(arguments) as client:
        instances = find_instances(client, arguments.service)
    if instances.filtered:
        sys.stderr.write("agentd: warning: the token may not see all instances\n")
    for one in instances.odd[:_MOST_TOLD]:
        sys.stderr.write(f"agentd: instance {one.name or '?'} was left out: no usable {one.reason}\n")
    every = instances.every
    found = [one for one in every if _asked_for(one, arguments.tag, passing=arguments.passing)]
    if not found:
        raise AgentdError(_none(every, arguments))
    left_out = [one for one in found if not _printable(one.address, names=arguments.names)]
    _tell(left_out, arguments)
    found = [
        replace(one, address=_printable(one.address, names=True)) for one in found if one not in left_out
    ]
    if output.json:
        output.document([{name: getattr(one, name) for name in _FIELDS} for one in found])
    elif sys.stdout.isatty() and not arguments.plain:
        rows = [(one.address, one.port, one.node, one.status, ", ".join(one.tags)) for one in found]
        output.table(_COLUMNS, rows)
    else:
        for address in dict.fromkeys(one.address for one in found):
            output.line(address)
    return int(bool(left_out or instances.odd))


def _printable(text: str, *, names: bool) -> str:
    """The address, in its usual spelling; "" for what is none: a zone (`%eth0`) can hold any text."""
    try:
        return "" if "%" in text else str(ipaddress.ip_address(text))
    except ValueError:
        return text if names and len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) else ""


def _tell(left_out: Sequence[Instance], arguments: Namespace) -> None:
    for one in left_out[:_MOST_TOLD]:
        cure = "; --names prints host names" if _printable(one.address, names=True) else ""
        sys.stderr.write(
            f"agentd: instance {one.id[:64]!a} on node {one.node[:64]!a} was left out:"
            f" {one.address[:64]!a} is not an IP address{cure}\n"
        )
    if len(left_out) > _MOST_TOLD:
        sys.stderr.write(f"agentd: {len(left_out)} instances of {arguments.service!r} were left out in all\n")


def _asked_for(one: Instance, tag: str | None, *, passing: bool) -> bool:
    # Consul ignores the case of tags as well.
    tagged = tag is None or tag.lower() in map(str.lower, one.tags)
    return tagged and (not passing or one.status == "passing")


def _none(every: Sequence[Instance], arguments: Namespace) -> str:
    if not every:
        return f"Consul knows no service {arguments.service!r}; `consul catalog services` lists them"
    wanted = [
        *(["passing"] if arguments.passing else []),
        *([f"tagged {arguments.tag!r}"] if arguments.tag else []),
    ]
    return f"no instance of {arguments.service!r} is {' and '.join(wanted)}; it has {len(every)} in all"
