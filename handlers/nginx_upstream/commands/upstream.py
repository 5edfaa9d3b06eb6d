"""`agentd upstream`: lists or changes the servers of an upstream on all load balancers at once.

Owns what is printed and the exit status; the change itself is in `balancers`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from threading import Event
from typing import Any, Final

from agentd.command import (
    AgentdError,
    LiveTable,
    Output,
    Parser,
    add_command,
    add_consul_arguments,
    checked,
    consul,
    count,
    run_stoppable,
    span,
)
from handlers.nginx_upstream.commands.arguments import (
    add_balancers,
    add_min_servers,
)
from handlers.nginx_upstream.commands.balancers import Balancers, Listing, Result, Update
from handlers.nginx_upstream.commands.catalogue import find_balancers
from handlers.nginx_upstream.interface import MOST_WEIGHT, Desired
from handlers.nginx_upstream.server import Server, parse_address

HELP: Final = "list or change the servers of an upstream on all load balancers at once"
_ACTIONS: Final = {
    "list": "list the servers",
    "down": "take a server out of rotation",
    "up": "put a server back into rotation",
    "weight": "change a server's share of the requests",
}
_EXAMPLES: Final = {
    "list": "list",
    "down": "down 10.0.0.1:80",
    "up": "up 10.0.0.1:80",
    "weight": "weight 10.0.0.1:80 5",
}
_TAKES: Final = {"list": "", "down": " SERVER", "up": " SERVER", "weight": " SERVER N"}
_COLUMNS: Final = ("BALANCER", "OUTCOME", "STATE", "WEIGHT", "TIME", "NOTE")
_LISTED: Final = ("SERVER", "STATE", "WEIGHT", "ON")
_URGENT: Final = {"failed": 0, "waiting": 1}
_DESIRED: Final = {"down": Desired(down=True), "up": Desired(down=False)}


def add_arguments(parser: Parser) -> None:
    """An action, and what each action takes."""
    parser.add_example(
        "agentd upstream list --upstream app --on lb",
        "agentd upstream down 10.0.0.1:80 --upstream app --on lb",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _ACTIONS.items():
        own = add_command(actions, name, text)
        own.add_example(f"agentd upstream {_EXAMPLES[name]} --upstream app --on lb")
        own.add_exit_status("0 if every load balancer answered and did what was asked; 1 if not.")
        own.usage = f"%(prog)s [options]{_TAKES[name]} --upstream NAME --on SERVICE"
        if name != "list":
            own.add_argument(
                "server",
                type=partial(checked, parse_address),
                metavar="SERVER",
                help="IP address and port, such as 10.0.0.1:80",
            )
            own.add_argument(
                "--keep-going",
                action="store_true",
                help="if some load balancers fail, change the others and undo nothing",
            )
        if name == "weight":
            own.add_argument(
                "weight",
                type=_weight,
                metavar="N",
                help=f"the new weight, 1 to {MOST_WEIGHT}; it is kept until Consul's own is set",
            )
        if name == "down":
            add_min_servers(own)
        add_balancers(own)
        add_consul_arguments(own)


def _weight(text: str) -> int:
    weight = count(text)
    if weight > MOST_WEIGHT:
        raise ArgumentTypeError(f"{text} is too much: at most {MOST_WEIGHT}")
    return weight


def execute(arguments: Namespace, output: Output) -> int:
    """List or change; 0 if every load balancer answered and did what was asked, and none was refused.

    Raises:
        AgentdError: there is no load balancer, or some failed: which, and why.
        ConsulError: Consul does not say where they are.
    """
    with consul(arguments) as client:
        interfaces, refused = find_balancers(client, arguments)

    def work(stop: Event) -> int:
        balancers = Balancers(interfaces, stop)
        if arguments.action == "list":
            return _list(balancers, arguments, output)
        return _change(balancers, arguments, output)

    return max(run_stoppable(work), int(refused > 0))


# ---------------------------------------------------------------- list


def _list(balancers: Balancers, arguments: Namespace, output: Output) -> int:
    listings = balancers.look()
    if output.json:
        found = [
            {
                **asdict(one.balancer),
                "error": one.error,
                "servers": [_document(each) for each in one.servers.values()],
            }
            for one in listings
        ]
        output.document({"upstream": arguments.upstream, "balancers": found})
    elif sys.stdout.isatty():
        output.table(_LISTED, _grouped(listings), empty="no load balancer answered")
    else:
        for one in listings:
            for each in one.servers.values():
                output.line(f"{one.balancer} {each.address} {_state(each)} weight={each.weight}")
    _raise_for([(str(one.balancer), one.error) for one in listings], "")
    return 0


def _grouped(listings: Sequence[Listing]) -> list[tuple[object, ...]]:
    """One row for servers that are alike on several load balancers, so that differences stand out."""
    answered = [one for one in listings if not one.error]
    groups: dict[tuple[str, str, int], list[str]] = {}
    for one in answered:
        for each in one.servers.values():
            groups.setdefault((each.address, _state(each), each.weight), []).append(one.balancer.node)
    return [
        (*key, f"all {len(answered)}" if len(nodes) == len(answered) else ", ".join(nodes))
        for key, nodes in sorted(groups.items())
    ]


# ---------------------------------------------------------------- down, up, weight


def _change(balancers: Balancers, arguments: Namespace, output: Output) -> int:
    desired = _DESIRED.get(arguments.action) or Desired(weight=arguments.weight)
    min_servers = arguments.min_servers if arguments.action == "down" else 0
    live = LiveTable(output, sys.stdout, _COLUMNS) if sys.stdout.isatty() and not output.json else None
    current = {balancer: Result(balancer) for balancer in balancers.interfaces}

    def report(result: Result) -> None:
        current[result.balancer] = result
        if live:
            live.draw(
                [_row(one) for one in sorted(current.values(), key=lambda one: _URGENT.get(one.outcome, 2))]
            )

    results = balancers.change(
        Update(arguments.server, desired, min_servers), keep_going=arguments.keep_going, report=report
    )
    _print(arguments, list(current.values()), output, live)
    _raise_for([(str(one.balancer), one.error) for one in results], _consequence(results))
    return int(any(one.outcome in ("untouched", "undone") for one in results))


def _print(arguments: Namespace, results: Sequence[Result], output: Output, live: LiveTable | None) -> None:
    if live:
        live.finish([_row(one) for one in results])
    elif output.json:
        output.document(
            {
                "upstream": arguments.upstream,
                "server": arguments.server,
                "action": arguments.action,
                "balancers": [_result(one) for one in results],
            }
        )
    else:
        for one in results:
            output.line(f"{one.balancer} {one.outcome}{f': {one.error}' if one.error else ''}")


def _result(result: Result) -> dict[str, Any]:
    return {
        **asdict(result.balancer),
        "outcome": result.outcome,
        "before": result.before and _document(result.before),
        "after": result.after and _document(result.after),
        "error": result.error,
        "seconds": round(result.seconds, 4),
    }


def _document(one: Server) -> dict[str, Any]:
    return {"server": one.address} | {
        name: getattr(one, name) for name in ("down", "weight", "max_fails", "fail_timeout")
    }


def _row(result: Result) -> tuple[object, ...]:
    return (
        result.balancer,
        result.outcome,
        _state(result.after) if result.after else None,
        result.after.weight if result.after else None,
        span(result.seconds or None),
        result.error,
    )


def _state(one: Server) -> str:
    return "down" if one.down else "up"


def _consequence(results: Sequence[Result]) -> str:
    outcomes = {result.outcome for result in results}
    if "undone" in outcomes:
        return "; the change was undone on the others"
    return "; the others were left as they are" if "untouched" in outcomes else ""


def _raise_for(errors: Sequence[tuple[str, str]], fate: str) -> None:
    """Name those that failed."""
    failed = [f"{name}: {error}" for name, error in errors if error]
    if failed:
        raise AgentdError("\n".join([*failed, f"{len(failed)} of {len(errors)} load balancers failed{fate}"]))
