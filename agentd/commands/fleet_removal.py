"""`agentd fleet remove`: removes everything that a fleet keeps in Consul, once no node uses it any more.

Lists what is there first. Deletes nothing while a node still acknowledges, since its relay would write again.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from agentd.commands.output import Output
from agentd.commands.to_fleet import fleet
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.fleet.keys import Keys
    from agentd.fleet.members import Documents

_SHOWN: Final = 5  # nodes that are named
_ABSENCES: Final = "absences"
_WHAT: Final = {
    "names": "heads of names, and the fleet's record",
    "messages": "messages",
    "bodies": "bodies of messages",
    "nodes": "acknowledgements of nodes",
    "pruned": "lists of recently dropped messages",
    _ABSENCES: "record of absent nodes",
}
_OTHERS: Final = "keys that agentd did not write"


def remove(arguments: Namespace, output: Output) -> int:
    """List all keys of the fleet, and with `--yes` delete them; 1 if they are still there.

    Args:
        arguments: of a command that has `--yes`, `--force` and the options of `add_fleet_arguments`.
        output: of the command.

    Raises:
        AgentdError: nodes still acknowledge, and `--force` was not given.
        ConsulRefused: the token may not read or delete the keys.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand, explained  # noqa: PLC0415 (as above)

    with fleet(arguments) as reached:
        keys, kv = Keys(reached.name), ConsulKV(reached.client)
        found = _count(keys, kv.keys(keys.root, consistent=True))
        if not found:
            demand(reached.client, "read", [keys.root], "reading what is there")
        for what, count in found.items():
            output.line(f"{count:8}  {what}")
        if found and not arguments.force:
            _refuse_while_alive(reached.name, Census(reached.client, keys).documents())
        if found and arguments.yes:
            with explained(reached.client, "write", [keys.root], "removing the fleet"):
                kv.delete_all(keys.root)
        left = _count(keys, kv.keys(keys.root, consistent=True)) if arguments.yes else found
    if output.json:
        output.document({"fleet": reached.name, "found": found, "removed": bool(found) and not left})
    output.line(*_said(keys.root, found, left, asked=arguments.yes))
    return int(bool(left))


def _said(root: str, found: Mapping[str, int], left: Mapping[str, int], *, asked: bool) -> tuple[str]:
    if not found:
        return (f"There is nothing below {root} in Consul.",)
    if not asked:
        return (f"Nothing has been removed yet: add --yes to delete everything below {root} for good.",)
    if left:
        return (f"Somebody wrote below {root} in the meantime: see `agentd fleet`, and try again.",)
    return (f"Everything below {root} was removed.",)


def _count(keys: Keys, found: Iterable[str]) -> dict[str, int]:
    """The number of keys of each kind."""
    counts = Counter(
        _ABSENCES if key == keys.absences else key.removeprefix(keys.root).partition("/")[0] for key in found
    )
    known = {what: counts.pop(part) for part, what in _WHAT.items() if part in counts}
    return known | ({_OTHERS: counts.total()} if counts else {})


def _refuse_while_alive(name: str, documents: Documents) -> None:
    """Raises AgentdError while a node acknowledges, including nodes with an unreadable document."""
    stopped = {node for node, one in documents.found.items() if one.stopped is not None}
    alive = sorted(documents.indexes.keys() - stopped)
    if not alive:
        return
    more = f" and {len(alive) - _SHOWN} more" if len(alive) > _SHOWN else ""
    raise AgentdError(
        f"not removed: {', '.join(alive[:_SHOWN])}{more} still acknowledge in the fleet {name!r}, and would"
        " write again: set `fleet: null` there and reload agentd, run `agentd fleet forget NODE` for those"
        " that are gone, or override this with --force"
    )
