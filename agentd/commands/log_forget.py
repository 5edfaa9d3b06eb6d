"""`agentd log forget`: counts the messages of a name, and with `--yes` deletes them for good."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from agentd.commands.log import check_name
from agentd.commands.output import Output
from agentd.commands.to_fleet import fleet

_PURPOSE: Final = "forgetting messages"


def forget(arguments: Namespace, output: Output) -> int:
    """Count the messages, and with `--yes` delete them; 1 if some are still there.

    Nodes keep what they have applied, and do not write the messages back.

    Args:
        arguments: `name`, `before`, `yes`, and the options of `add_fleet_arguments`.
        output: of the command.

    Raises:
        AgentdError: nothing is kept under that name, or its newest message is older.
        ConsulRefused: the token may not read or delete them; the text has the rules to add.
    """
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.log import Log  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import explained  # noqa: PLC0415 (as above)

    name, before = arguments.name, None if arguments.before is None else arguments.before - 1
    check_name(name)
    with fleet(arguments) as reached:
        log = Log(ConsulKV(reached.client), Keys(reached.name))
        needed = [log.keys.head(name), log.keys.messages(name), log.keys.pruned(name)]
        with explained(reached.client, "write", needed, _PURPOSE):
            found = log.forgettable(name, before)
            gone = log.forget(name, before) if arguments.yes else 0
    if output.json:
        output.document({"fleet": reached.name, "name": name, "found": found, "forgotten": gone})
    if arguments.yes:
        output.line(f"{name}: {_messages(gone)} forgotten")
        return 0
    output.line(
        f"{name}: {_messages(found)} would be forgotten. Nothing has been deleted yet: add --yes to delete"
        " them for good."
        if found
        else f"{name}: there are no messages to forget."
    )
    return int(bool(found))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
