"""`agentd rollout status`: the rollouts that are open, whom they admit, and how far those nodes are.

Anybody may have written what is in Consul: whose signature is not verified here, is said.
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.commands.fleet_report import listed
from agentd.commands.fleet_tally import Tally, print_others, tally
from agentd.commands.log import keyring_of, payload_of, signer_of
from agentd.commands.output import Output, span, universal
from agentd.commands.to_fleet import ReachedFleet, fleet
from agentd.errors import AgentdError, FleetError
from agentd.fleet.census import Census
from agentd.fleet.keys import Keys, unheard_of
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.fleet.newest import Newest
from agentd.fleet.rights import demand, explained
from agentd.fleet.standing import takers

if TYPE_CHECKING:
    from agentd.fleet.standing import Member
    from agentd.fleet.turns import OpenRollout
    from agentd.trust.keyring import Keyring

_PURPOSE: Final = "reading the rollouts"
_LISTED: Final = 60  # characters of the nodes that are admitted


@dataclass(frozen=True, slots=True)
class _Seen:
    """One open rollout.

    Attributes:
        opened: its messages.
        admitted: the nodes that it admits, sorted.
        nodes: how many nodes acknowledge the name.
        found: how far the admitted nodes are.
        signed_by: the publisher whose signature was verified; None if that is not so.
        unverified: why not; "" if it was, or if nobody signed.
    """

    opened: OpenRollout
    admitted: tuple[str, ...]
    nodes: int
    found: Tally
    signed_by: str | None
    unverified: str


def show(arguments: Namespace, output: Output) -> int:
    """Print the open rollouts; 1 if a node refuses one or fails, or if there seems to be no such fleet.

    Raises:
        AgentdError: the head of the only name asked for cannot be read.
        ConsulRefused: the token lacks a right; the text has the rule to add.
    """
    with fleet(arguments) as reached:
        log = Log(ConsulKV(reached.client), Keys(reached.name))
        keys, name = log.keys, arguments.name
        needed = [keys.names, keys.every_message] if name is None else [keys.head(name), keys.messages(name)]
        with explained(reached.client, "read", [*needed, keys.nodes], _PURPOSE):
            census = Census(reached.client, keys)
            documents = census.documents()
            members = census.members(documents, census.catalogue(documents.datacenters))
            opened, wrong = _opened(log, name)
            keyring = keyring_of(reached)
            seen = {one: _seen(each, members, census, keyring) for one, each in opened.items()}
        if not (opened and documents.indexes):  # or the token may not see them
            demand(reached.client, "read", [*needed, keys.nodes], _PURPOSE)
        if name is not None and name in wrong:
            raise AgentdError(f"{name}: {wrong[name]}")
        is_known = bool(documents.indexes or opened or wrong)
    if output.json:
        output.document(_document(reached, seen, wrong))
    elif not is_known:
        output.line(f"! {unheard_of(reached.name)}", "yellow")
    else:
        _print(seen, wrong, output)
    return int(not is_known or any(one.found.refused for one in seen.values()))


def _opened(log: Log, name: str | None) -> tuple[dict[str, OpenRollout], dict[str, str]]:
    """The open rollouts by name, and why the heads of others cannot be read."""
    opened: dict[str, OpenRollout] = {}
    wrong: dict[str, str] = {}
    for one in [name] if name else sorted(log.heads()):
        try:
            if found := log.open_rollout(one, log.head(one)):
                opened[one] = found
        except FleetError as error:
            wrong[one] = str(error)
    return opened, wrong


def _seen(opened: OpenRollout, members: list[Member], census: Census, keyring: Keyring | None) -> _Seen:
    message = opened.newest
    nodes = {one.node: one.document for one in members if not one.runs_as}
    newest = census.asked_by(message, nodes)
    now = time.time()
    every = takers(members, Newest(message.name, message.num), now)
    known = {one.node for one in every if one.document is not None}
    signer = signer_of(message, keyring)
    return _Seen(
        opened,
        tuple(sorted(known & (newest.addressed or frozenset()))),
        len(known),
        tally(members, newest, now, 1.0),
        signer.publisher if signer else None,
        signer.why if signer else "",
    )


# ---------------------------------------------------------------- for a person


def _print(seen: dict[str, _Seen], wrong: dict[str, str], output: Output) -> None:
    if not seen:
        output.line("No rollout is open.")
    for name, one in seen.items():
        first, newest, found = one.opened.first, one.opened.newest, one.found
        by = f"{newest.publisher}, signed by {one.signed_by}" if one.signed_by else newest.publisher
        output.line(f"{name}: the rollout {newest.rollout} is open", "bold")
        others = f"keep message {one.opened.released}" if one.opened.released else "have nothing"
        output.pairs(
            {
                "since": f"{universal(first.issued)} UTC, for {span(max(0.0, time.time() - first.issued))}",
                "newest step": f"message {newest.num} of {universal(newest.issued)} UTC, by {by}",
                "payload": payload_of(newest),
                "admitted": f"{len(one.admitted)} of {one.nodes} nodes ({listed(one.admitted, _LISTED)})",
                "in force on": f"{len(found.confirmed)} of {found.nodes}",
                "other nodes": others,
            }
        )
        print_others(found, output)
        if one.unverified:
            output.line(f"not verified: {one.unverified}", "yellow")
        output.line(
            "The `agentd publish` command that began it goes on with it; to end it and go back:"
            f" `agentd rollout abort {name}`"
        )
    for name, why in wrong.items():
        output.line(f"{name}: {why}", "red")


# ---------------------------------------------------------------- for a program


def _document(reached: ReachedFleet, seen: dict[str, _Seen], wrong: dict[str, str]) -> dict[str, Any]:
    return {
        "fleet": reached.name,
        "rollouts": [_fields(name, one) for name, one in seen.items()],
        "unreadable": [{"name": name, "error": why} for name, why in wrong.items()],
    }


def _fields(name: str, one: _Seen) -> dict[str, Any]:
    first, newest, found = one.opened.first, one.opened.newest, one.found
    admission = newest.admission
    return {
        "name": name,
        "rollout": newest.rollout,
        "num": newest.num,
        "payload": payload_of(newest),
        "bytes": newest.size,
        "since": first.issued,
        "issued": newest.issued,
        "publisher": newest.publisher,
        "signed_by": one.signed_by,
        "unverified": one.unverified or None,
        "released": one.opened.released or None,
        "step": admission
        and {"below": admission.below, "nodes": list(admission.nodes), "tag": admission.tag or None},
        "nodes": one.nodes,
        "admitted": list(one.admitted),
        "confirmed": [each.node for each in found.confirmed],
        "failed": [{"node": each.node, "reason": each.reason} for each in found.refused],
        "waiting": [{"node": each.node, "reason": each.reason} for each in found.waiting],
    }
