"""Whether the fleet understands a message before it is written: its format, and who would have to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd.errors import AgentdError, BadDocument

if TYPE_CHECKING:
    from agentd.fleet.log import Log
    from agentd.watch.client import ConsulClient

ROLLOUTS: Final = 2
"""The format in which nodes acknowledge that follow a rollout."""
_FIRST_FORMAT: Final = 1  # of messages: every agentd that acknowledges anything knows it
_SHOWN: Final = 5  # nodes that are named


def require_understood(log: Log, client: ConsulClient, form: int, purpose: str, *, least: int = 0) -> None:
    """Require that the fleet, and every node of it, takes messages of this format.

    Args:
        log: of the fleet.
        client: reads what the nodes acknowledge.
        form: the format of the messages to write.
        purpose: what needs the right to read that.
        least: the format in which every node must acknowledge, if that is higher.

    Raises:
        AgentdError: the fleet or a node does not.
        ConsulRefused: the token may not read what the nodes acknowledge.
    """
    try:
        record = log.record()
    except BadDocument as error:
        key = log.keys.record
        raise AgentdError(
            f"{key}: {error}: delete it with `consul kv delete {key}`; the next message writes it anew"
        ) from error
    if record and record.floor_format > form:
        from agentd.fleet.reader import if_forged  # noqa: PLC0415 (as below)

        raise AgentdError(
            f"the fleet {log.keys.fleet!r} takes messages of format {record.floor_format} or newer,"
            f" and this agentd writes {form}: upgrade agentd; {if_forged(log.keys.record)}"
        )
    if max(form, least) > _FIRST_FORMAT:
        _require_nodes(log, client, max(form, least), purpose)


def _require_nodes(log: Log, client: ConsulClient, form: int, purpose: str) -> None:
    from agentd.fleet.census import Census  # noqa: PLC0415 (brings what only this needs)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    documents = Census(client, log.keys).documents()
    if not documents.indexes:
        demand(client, "read", [log.keys.nodes], purpose)
    behind = sorted(node for node, one in documents.found.items() if one.format < form)
    if behind:
        more = f" and {len(behind) - _SHOWN} more" if len(behind) > _SHOWN else ""
        raise AgentdError(
            f"{', '.join(behind[:_SHOWN])}{more} would not understand a message of format {form}: upgrade"
            " agentd there first, or run `agentd fleet forget NODE` for nodes that are gone"
        )
