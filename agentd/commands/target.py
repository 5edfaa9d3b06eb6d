"""The options that say which nodes a message is for, as for `consul event`: node, service and tag.

Also finds out which nodes match, since a message for none of them is usually a mistake.
"""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Final

from agentd.commands.parser import Parser
from agentd.errors import BadDocument, ConfigError, ConsulRefused

if TYPE_CHECKING:
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.keys import Keys
    from agentd.watch.client import ConsulClient

_LONGEST: Final = 512  # characters of a pattern


def add_target_arguments(parser: Parser) -> None:
    """Add the three options."""
    for flag, what in (
        ("--node", "only for nodes whose name matches this regular expression"),
        ("--service", "only for nodes with a service whose name matches"),
        ("--tag", "only for nodes where that service has a tag that matches; needs --service"),
    ):
        parser.add_argument(flag, type=_pattern, metavar="RE", help=what)


def check_target(arguments: Namespace) -> None:
    """Refuse a combination that matches no node. Raises ConfigError."""
    if arguments.tag and not arguments.service:
        raise ConfigError(["--tag is that of a service: give --service as well"])


def described(message: Envelope) -> str:
    """The options as typed, or whom a step of a rollout admits; "" for all nodes."""
    if message.admission:
        return str(message.admission)
    given = {"node": message.node, "service": message.service, "tag": message.tag}
    return " ".join(f"{name}={value}" for name, value in given.items() if value)


def matching(message: Envelope, keys: Keys, client: ConsulClient) -> list[str] | None:
    """The names of the nodes that the message is for now, sorted; None for all.

    The nodes of the fleet are those that acknowledge; while none does, all nodes in Consul's catalogue count.

    Raises:
        ConsulUnavailable: Consul does not answer.
        ConsulRefused: the token may not see who matches; the text has the rule to add.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (only a message with a target needs it)
    from agentd.fleet.rights import demand, unseen  # noqa: PLC0415 (as above)

    if not (message.node or message.service or message.admission):
        return None
    census = Census(client, keys)
    nodes = census.documents().each
    if not nodes:
        demand(client, "read", [keys.nodes], "knowing the nodes of the fleet")
        nodes = dict.fromkeys(census.catalogue().ids)
    if not nodes:  # at least the agent's own is there
        raise ConsulRefused(
            'the token may not see the nodes; add to its policy: node_prefix "" { policy = "read" }'
        )
    found = sorted(census.asked_by(message, nodes).addressed or ())
    by_service = message.service or (message.admission and message.admission.tag)
    if by_service and (why := unseen(client)):
        raise ConsulRefused(why)
    return found


def _pattern(text: str) -> str:
    from agentd.fleet.target import compiled  # noqa: PLC0415 (as above)

    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ArgumentTypeError(f"a regular expression has 1 to {_LONGEST} printable characters")
    try:
        compiled(text)
    except BadDocument as error:
        raise ArgumentTypeError(str(error)) from error
    return text
