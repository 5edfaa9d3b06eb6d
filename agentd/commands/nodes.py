"""`agentd nodes`: where the instances of a service are, by the catalogue.

Owns the choice by tag and status, and what is said when no instance is left.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Final

from agentd.commands.output import Output
from agentd.config import load
from agentd.errors import AgentdError
from agentd.fleet.instances import Instance, call_roll
from agentd.watch.client import ConsulClient

_COLUMNS: Final = ("ADDRESS", "PORT", "NODE", "STATUS", "TAGS")


def execute(arguments: Namespace, output: Output) -> int:
    """Print the addresses, sorted, each once; on a terminal a table of the instances.

    Raises:
        AgentdError: there is none.
        ConsulRefused: the token may not see whether there is one.
    """
    with closing(ConsulClient(load(arguments.config).config.consul)) as client:
        roll = call_roll(client, arguments.service)
    if roll.filtered:
        sys.stderr.write("agentd: warning: the token may not see all instances\n")
    every = roll.instances
    found = [one for one in every if _asked_for(one, arguments.tag, passing=arguments.passing)]
    if not found:
        raise AgentdError(_none(every, arguments))
    if output.json:
        output.document([asdict(one) for one in found])
    elif sys.stdout.isatty() and not arguments.plain:
        rows = [(one.address, one.port, one.node, one.status, ", ".join(one.tags)) for one in found]
        output.table(_COLUMNS, rows)
    else:
        for address in dict.fromkeys(one.address for one in found):
            output.line(address)
    return 0


def _asked_for(one: Instance, tag: str | None, *, passing: bool) -> bool:
    # Consul compares tags without regard to case as well.
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
