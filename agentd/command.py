"""What the author of a command imports. See also `agentd.handler`, which is for handlers.

A command is a module, named by an entry point of the group `agentd.commands`:

    [project.entry-points."agentd.commands"]
    greet = "my_package.greet"

It defines

    HELP = "say hello to a service"               # one line, lower case, no full stop

    def add_arguments(parser: Parser) -> None:    # --config and --json are there already
        parser.add_argument("service", type=word, metavar="SERVICE")

    def execute(arguments: Namespace, output: Output) -> int:    # the exit status
        with consul(arguments) as client:
            ...

An `AgentdError` that `execute` raises is printed without a traceback, and ends with status 1. Commands may
talk to Consul; handlers may not. Each name below is imported when it is first used, so that a command pays
only for what it needs; its module should not import more than that either.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agentd.commands.argument_types import (
        add_wait,
        checked,
        count,
        kept_name,
        number,
        prefix,
        seconds,
        some_seconds,
        word,
    )
    from agentd.commands.child import Child
    from agentd.commands.coordinated_name import CoordinatedName, State, Taker
    from agentd.commands.node import Node, open_node
    from agentd.commands.output import Colour, LiveTable, Output, moment, span
    from agentd.commands.parser import Parser, add_command
    from agentd.commands.progress import ProgressBar
    from agentd.commands.signals import run_stoppable
    from agentd.commands.to_consul import add_consul_arguments, consul, consul_options
    from agentd.commands.to_fleet import ReachedFleet, add_fleet_arguments, fleet
    from agentd.commands.wait_for_outcome import report_outcomes
    from agentd.config.load import ConfiguredHandler
    from agentd.errors import (
        AgentdError,
        ConfigError,
        ConsulError,
        LockLost,
        LockNotAcquired,
        PermanentError,
    )
    from agentd.locks.consul_store import ConsulStore
    from agentd.locks.lock import Lock
    from agentd.printable import printable
    from agentd.watch.changes import Instance
    from agentd.watch.client import ConsulClient
    from agentd.watch.lookup import Instances, find_instances
    from agentd.watch.options import ConsulOptions

_NAMES: Final = {
    "agentd.commands.argument_types": (
        "add_wait",
        "checked",
        "count",
        "kept_name",
        "number",
        "prefix",
        "seconds",
        "some_seconds",
        "word",
    ),
    "agentd.commands.child": ("Child",),
    "agentd.commands.coordinated_name": ("CoordinatedName", "State", "Taker"),
    "agentd.commands.node": ("Node", "open_node"),
    "agentd.commands.output": ("Colour", "LiveTable", "Output", "moment", "span"),
    "agentd.commands.parser": ("Parser", "add_command"),
    "agentd.commands.progress": ("ProgressBar",),
    "agentd.commands.signals": ("run_stoppable",),
    "agentd.commands.to_consul": ("add_consul_arguments", "consul", "consul_options"),
    "agentd.commands.to_fleet": ("ReachedFleet", "add_fleet_arguments", "fleet"),
    "agentd.commands.wait_for_outcome": ("report_outcomes",),
    "agentd.config.load": ("ConfiguredHandler",),
    "agentd.errors": (
        "AgentdError",
        "ConfigError",
        "ConsulError",
        "LockLost",
        "LockNotAcquired",
        "PermanentError",
    ),
    "agentd.printable": ("printable",),
    "agentd.watch.changes": ("Instance",),
    "agentd.watch.lookup": ("Instances", "find_instances"),
    "agentd.locks.consul_store": ("ConsulStore",),
    "agentd.locks.lock": ("Lock",),
    "agentd.watch.client": ("ConsulClient",),
    "agentd.watch.options": ("ConsulOptions",),
}
_PLACES: Final = {name: place for place, names in _NAMES.items() for name in names}

__all__ = [
    "AgentdError",
    "Child",
    "Colour",
    "ConfigError",
    "ConfiguredHandler",
    "ConsulClient",
    "ConsulError",
    "ConsulOptions",
    "ConsulStore",
    "CoordinatedName",
    "Instance",
    "Instances",
    "LiveTable",
    "Lock",
    "LockLost",
    "LockNotAcquired",
    "Node",
    "Output",
    "Parser",
    "PermanentError",
    "ProgressBar",
    "ReachedFleet",
    "State",
    "Taker",
    "add_command",
    "add_consul_arguments",
    "add_fleet_arguments",
    "add_wait",
    "checked",
    "consul",
    "consul_options",
    "count",
    "find_instances",
    "fleet",
    "kept_name",
    "moment",
    "number",
    "open_node",
    "prefix",
    "printable",
    "report_outcomes",
    "run_stoppable",
    "seconds",
    "some_seconds",
    "span",
    "word",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (the type checker reads the imports above)
    """Import the module that a name is from (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
