"""`agentd upstream`: the servers of an upstream on all load balancers at once.

Owns what is printed and what the exit status is; the change itself is `fleet/balancers.py`'s.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from threading import Event
from typing import Any, Final

from agentd.commands.balancing import find_balancers
from agentd.commands.live_table import LiveTable
from agentd.commands.output import Output, span
from agentd.commands.stoppable import run_stoppable
from agentd.config import load
from agentd.errors import AgentdError
from agentd.fleet.balancers import Balancers, Change, Listing, Result
from agentd.fleet.dynamic_upstream import Peer, Wish
from agentd.watch.client import ConsulClient

_COLUMNS: Final = ("BALANCER", "OUTCOME", "STATE", "WEIGHT", "TIME", "NOTE")
_LISTED: Final = ("SERVER", "STATE", "WEIGHT", "ON")
_URGENT: Final = {"failed": 0, "waiting": 1}
_WISHES: Final = {"down": Wish(down=True), "up": Wish(down=False)}


def execute(arguments: Namespace, output: Output) -> int:
    """List or change; 0 if every load balancer answered and did as it was told.

    Raises:
        AgentdError: there is no load balancer, or some failed: which, and why.
        ConsulError: Consul does not say where they are.
    """
    with closing(ConsulClient(load(arguments.config).config.consul)) as client:
        interfaces = find_balancers(client, arguments)

    def work(stop: Event) -> int:
        balancers = Balancers(interfaces, stop)
        if arguments.action == "list":
            return _list(balancers, arguments, output)
        return _change(balancers, arguments, output)

    return run_stoppable(work)


# ---------------------------------------------------------------- list


def _list(balancers: Balancers, arguments: Namespace, output: Output) -> int:
    listings = balancers.look()
    if output.json:
        output.document(
            {
                "upstream": arguments.upstream,
                "balancers": [
                    {
                        **asdict(one.balancer),
                        "error": one.error,
                        "servers": [asdict(peer) for peer in one.peers],
                    }
                    for one in listings
                ],
            }
        )
    elif sys.stdout.isatty():
        output.table(_LISTED, _grouped(listings), empty="no load balancer answered")
    else:
        for one in listings:
            for peer in one.peers:
                output.line(f"{one.balancer} {peer.server} {_state(peer)} weight={peer.weight}")
    _raise_for([(str(one.balancer), one.error) for one in listings], "")
    return 0


def _grouped(listings: Sequence[Listing]) -> list[tuple[object, ...]]:
    """One row for servers that are alike on several balancers, which is what a person looks for."""
    answered = [one for one in listings if not one.error]
    groups: dict[tuple[str, str, int], list[str]] = {}
    for one in answered:
        for peer in one.peers:
            groups.setdefault((peer.server, _state(peer), peer.weight), []).append(one.balancer.node)
    return [
        (*key, f"all {len(answered)}" if len(nodes) == len(answered) else ", ".join(nodes))
        for key, nodes in sorted(groups.items())
    ]


# ---------------------------------------------------------------- down, up, weight


def _change(balancers: Balancers, arguments: Namespace, output: Output) -> int:
    wish = _WISHES.get(arguments.action) or Wish(weight=arguments.weight)
    change = Change(arguments.server, wish, arguments.min_servers if arguments.action == "down" else 0)
    live = LiveTable(output, sys.stdout, _COLUMNS) if sys.stdout.isatty() and not output.json else None
    current = {one.balancer: Result(one.balancer) for one in balancers.interfaces}

    def tell(result: Result) -> None:
        current[result.balancer] = result
        if live:
            live.draw([_row(one) for one in sorted(current.values(), key=_urgency)])

    results = balancers.change(change, keep_going=arguments.keep_going, tell=tell)
    _print(arguments, list(current.values()), output, live)
    _raise_for([(str(one.balancer), one.error) for one in results], _fate(results))
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
                "balancers": [_told(one) for one in results],
            }
        )
    else:
        for one in results:
            output.line(f"{one.balancer} {one.outcome}{f': {one.error}' if one.error else ''}")


def _told(result: Result) -> dict[str, Any]:
    values = asdict(result)
    del values["asked"]
    return {**values.pop("balancer"), **values, "seconds": round(result.seconds, 4)}


def _row(result: Result) -> tuple[object, ...]:
    peer = result.after
    return (
        result.balancer,
        result.outcome,
        _state(peer) if peer else None,
        peer.weight if peer else None,
        span(result.seconds or None),
        result.error,
    )


def _urgency(result: Result) -> int:
    return _URGENT.get(result.outcome, 2)


def _state(peer: Peer) -> str:
    return "down" if peer.down else "up"


def _fate(results: Sequence[Result]) -> str:
    outcomes = {result.outcome for result in results}
    if "undone" in outcomes:
        return "; undone on the rest"
    return "; the rest was left as it is" if "untouched" in outcomes else ""


def _raise_for(errors: Sequence[tuple[str, str]], fate: str) -> None:
    """Name those that failed."""
    failed = [f"{name}: {error}" for name, error in errors if error]
    if failed:
        raise AgentdError("\n".join([*failed, f"{len(failed)} of {len(errors)} load balancers failed{fate}"]))
