"""`agentd freeze`: has the nodes of a fleet hold back what is new, until `agentd thaw`.

Publishes the freeze, signed where this host signs, and says which nodes keep to it. A thaw is published the
same way, by `thaw.py`.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands import argument_types
from agentd.commands.output import Output, universal
from agentd.commands.parser import Parser
from agentd.commands.publisher import publisher
from agentd.commands.signing import Signing, read_signing
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError, ConsulUnavailable

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.standing import Member

_WAIT: Final = 15.0
_PURPOSE: Final = "freezing and thawing"
_MORE: Final = (
    "While the fleet is frozen, nodes hold back new messages of the log, and events that they would apply"
    " without it. They go on with what they have: states of services and keys, entries that expire, timed"
    " work, reloads, events that are not kept, and names that are urgent (`fleet.urgent`; the blacklist and"
    " the ticket keys if unset). A node that restarts stays frozen, also without Consul. A freeze stops no"
    " clock: a message whose time is over by the thaw is not applied."
)


def add_arguments(parser: Parser) -> None:
    """Why, for how long, and which fleet."""
    parser.add_example('agentd freeze --reason "black friday" --for 12h', "agentd thaw")
    parser.add_exit_status("0 if every node that runs keeps to it; 1 if one does not yet.")
    parser.description = f"{parser.description}\n\n{_MORE}"
    parser.add_argument(
        "--reason", type=argument_types.reason, metavar="R", help="why, for others to read; never a secret"
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        type=argument_types.some_seconds,
        metavar="T",
        help="thaw by itself after this time, such as 2h, by each node's clock (default: at `agentd thaw`)",
    )
    add_wait(parser)


def add_wait(parser: Parser) -> None:
    """Add `--wait`, and which fleet."""
    parser.add_argument(
        "--wait",
        type=argument_types.seconds,
        default=_WAIT,
        metavar="T",
        help=f"how long to wait for the nodes; 0 = don't wait (default {_WAIT:g}s)",
    )
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Freeze the fleet; 1 if a node that runs does not keep to it yet.

    Raises:
        AgentdError: the freeze was not published; the text says why.
        ConsulUnavailable: there was no answer; it may have been published.
    """
    with fleet(arguments) as reached:
        order = Order(reached, arguments.wait)
        told = order.publish(arguments.reason or "", arguments.seconds, frozen=True)
        if not output.json:
            until = f" until {universal(told['until'])} UTC" if told["until"] else ""
            output.line(f"The fleet {reached.name} is frozen{until}: new messages wait.")
        return order.conclude(told, "hold them back", output)


class _Follower(NamedTuple):
    """A node that follows freezes, and why it does not keep to the newest; "" if it does.

    `later`: whether it will once it runs again.
    """

    node: str
    why: str
    later: bool = False


class Order:
    """A freeze or a thaw on its way to the nodes.

    Args:
        reached: the fleet.
        wait: seconds to wait for the nodes.
    """

    def __init__(self, reached: ReachedFleet, wait: float) -> None:
        from agentd.fleet.freeze import NAME  # noqa: PLC0415 (parsing does without)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
        from agentd.fleet.log import Log  # noqa: PLC0415 (as above)

        self._name = NAME
        self._reached = reached
        self._wait = wait
        self.signing: Signing = read_signing(reached)
        self.signing.check(NAME)
        self.log: Log = Log(ConsulKV(reached.client), Keys(reached.name), signer=self.signing.signer)

    def publish(self, reason: str, seconds: float | None, *, frozen: bool) -> dict[str, Any]:
        """Write the message. Returns what to tell a program. Raises what `execute` raises."""
        from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
        from agentd.fleet.envelope import Draft  # noqa: PLC0415 (as above)
        from agentd.fleet.freeze import render_freeze  # noqa: PLC0415 (as above)
        from agentd.fleet.rights import demand, explained  # noqa: PLC0415 (as above)

        keys, client, now = self.log.keys, self._reached.client, time.time()
        with nothing_yet("published"):
            demand(client, "read", [keys.nodes, keys.head(self._name), keys.messages(self._name)], _PURPOSE)
            above = Census(client, keys).documents().reached(self._name, now)
        draft = Draft(
            body=render_freeze(reason, frozen=frozen),
            issued=now,
            publisher=publisher(),
            expires=None if seconds is None else now + seconds,
            kind="freeze",
        )
        prefixes = [keys.head(self._name), keys.messages(self._name), keys.pruned(self._name), keys.record]
        try:
            with explained(client, "write", prefixes, _PURPOSE):
                num = self.log.publish(self._name, draft, keep="latest", above=above)
        except ConsulUnavailable as error:
            raise ConsulUnavailable(
                f"{error}; it may or may not have been published: see `agentd log {self._name}`"
            ) from error
        return {
            "fleet": self._reached.name,
            "frozen": frozen,
            "num": num,
            "reason": reason,
            "until": draft.expires,
            "signed_by": self.signing.publisher,
        }

    def conclude(self, told: dict[str, Any], what: str, output: Output) -> int:
        """Wait for the nodes, and print how many do `what`. Returns the exit status."""
        found = self._followers(told["num"])
        late = [one for one in found if one.why]
        told |= {
            "nodes": len(found),
            "confirmed": len(found) - len(late),
            "others": [{"node": one.node, "reason": one.why} for one in late],
        }
        if output.json:
            output.document(told)
        many = f"{len(found) - len(late)} of {len(found)} nodes {what}."
        nobody = (
            f"No node of the fleet {self._reached.name!r} says that it follows its log: is that its name?"
        )
        output.line(many if found else nobody, "yellow" if late or not found else None)
        if late:
            output.table(("NODE", "WHY NOT"), [(one.node, one.why) for one in late])
        return int(not found or any(not one.later for one in late))

    def _followers(self, num: int) -> list[_Follower]:
        """The nodes, once all that run keep to this message, or the time is up."""
        from agentd.commands.fleet_watch import FleetWatch  # noqa: PLC0415 (as above)

        watch = FleetWatch(self._reached.client, self.log.keys, max(self._wait, 1.0))
        while True:
            try:
                found = sorted(self._judged(watch.patiently(watch.members), num))
            except ConsulUnavailable as error:
                raise AgentdError(
                    f"it was published as message {num}; which nodes keep to it is not known: {error}"
                ) from error
            done = bool(found) and all(one.later or not one.why for one in found)
            if done or not self._wait or watch.left() <= 0:
                return found
            watch.rest()

    def _judged(self, members: Iterable[Member], num: int) -> Iterable[_Follower]:
        for one in members:
            if one.document is None or not one.document.names or one.gone:
                continue  # it follows no log
            name = one.document.names.get(self._name)
            if name is not None and name.live is not None and name.live >= num:
                yield _Follower(one.node, "")
            elif one.document.stopped is not None:
                yield _Follower(one.node, "agentd is stopped: it will once it runs", later=True)
            else:
                why = one.silent or (name.waits if name else "")
                yield _Follower(one.node, why or "it has not said so; if it refuses it, its log says why")
