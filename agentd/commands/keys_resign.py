"""`agentd keys resign`: signs and seals what is in force with the keys of today, after a key was replaced.

Owns which names are treated, and what is told of each. May be interrupted and run again: what is done is not
done again.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from agentd.commands.output import Output
from agentd.commands.to_fleet import fleet
from agentd.errors import FleetError

if TYPE_CHECKING:
    from agentd.commands.signing import Signing
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.resigning import Resigned, Resigner

_PURPOSE: Final = "signing messages again"


def resign(names: Sequence[str], arguments: Namespace, output: Output) -> int:
    """Sign again what is in force, and print what became of each name; 1 if something is left to do.

    Args:
        names: the names; empty for all in the log that the publisher may send.
        arguments: the options of `add_fleet_arguments`.
        output: of the command.

    Raises:
        ConfigError: the configuration is invalid.
        AgentdError: there is no publisher's key here; or a name that was given is none.
        ConsulRefused: the token may not read or write the log; the text has the rules to add.
    """
    from agentd.commands.log import check_name  # noqa: PLC0415 (parsing does without)
    from agentd.commands.signing import read_signing  # noqa: PLC0415 (as above)

    for name in names:
        check_name(name)
    with fleet(arguments) as reached:
        signing = read_signing(reached)
        resigner = _resigner(signing, reached)
        for name in names:
            signing.check(name)
        rows = [_resign(resigner, name, reached) for name in names or _names(signing, reached)]
    if output.json:
        output.document({"fleet": reached.name, "names": rows})
    for row in rows:
        output.line(f"{row['name']}: {_told(row)}", "yellow" if row["left"] else None)
    if not rows:
        output.line("The log has nothing that this publisher may send.")
    return int(any(row["left"] for row in rows))


def _resigner(signing: Signing, reached: ReachedFleet) -> Resigner:
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.resigning import Resigner  # noqa: PLC0415 (as above)

    publisher = signing.require_publisher()
    assert signing.signer is not None  # noqa: S101 (or there would be no publisher)
    assert signing.keyring is not None  # noqa: S101 (as above)
    return Resigner(
        ConsulKV(reached.client),
        Keys(reached.name),
        signer=signing.signer,
        keyring=signing.keyring,
        publisher=publisher,
        verify=signing.verify,
        seals=signing.seals,
    )


def _names(signing: Signing, reached: ReachedFleet) -> list[str]:
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.reader import Reader  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand, explained  # noqa: PLC0415 (as above)

    keys = Keys(reached.name)
    with explained(reached.client, "read", [keys.names], _PURPOSE):
        heads = Reader(ConsulKV(reached.client), keys).heads()
    if not heads:
        demand(reached.client, "read", [keys.names], _PURPOSE)
    return sorted(name for name in heads if signing.may_send(name))


def _resign(resigner: Resigner, name: str, reached: ReachedFleet) -> dict[str, Any]:
    from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.resigning import Resigned  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand, explained  # noqa: PLC0415 (as above)

    keys = Keys(reached.name)
    needed = [keys.head(name), keys.messages(name), keys.pruned(name)]
    with explained(reached.client, "read", [keys.nodes], _PURPOSE):
        documents = Census(reached.client, keys).documents()
    if not documents.indexes:  # or the token may not see any
        demand(reached.client, "read", [keys.nodes], _PURPOSE)
    try:
        with explained(reached.client, "write", needed, _PURPOSE):
            done: Resigned = resigner.resign(name, documents.in_force(name, time.time()))
    except FleetError as error:  # the other names can be treated all the same
        demand(
            reached.client, "read", needed, _PURPOSE
        )  # what the token may not see, looks like what is gone
        done = Resigned(left=str(error))
    return {"name": name, "numbers": [one.num for one in done.messages], "left": done.left or None}


def _told(row: dict[str, Any]) -> str:
    if row["left"]:
        return str(row["left"])
    numbers = ", ".join(map(str, row["numbers"]))
    return f"signed again as {numbers}" if numbers else "nothing to do"
