"""`agentd rollback`: makes an earlier generation current again, and owes nginx's reload through the journal.

nginx checks the generation first. The flip is this command's; the reload and its proof are the daemon's.
"""

from __future__ import annotations

from argparse import Namespace

from agentd.commands.follow import Owed, follow, tell
from agentd.commands.node import Node, open_node
from agentd.commands.output import Output
from agentd.crew import provers
from agentd.errors import AgentdError


def execute(arguments: Namespace, output: Output) -> int:
    """Flip, then wait for the proof; 1 if nginx is not known to run that generation."""
    with open_node(arguments.config) as node:
        before = node.tree.current
        to = _target(node, arguments.generation)
        told = provers(node.loaded.handlers)
        node.committer.roll_back(to, f"rolled back by hand from generation {before}", told, check=True)
        output.line(f"Generation {to} is current again; it was {before}.")
        rows = follow(node, [_owed(node, name, to) for name in told], arguments.wait)
        if output.json:
            output.document({"generation": to, "before": before, "reloads": rows})
        well = tell(rows, output)
        if not well:
            output.line(_advice(node.running))
    return 0 if well else 1


def _advice(running: bool) -> str:  # noqa: FBT001 (a value, not a switch)
    if running:
        return "nginx is not known to run it yet; see `agentd history`, and the error log of nginx."
    return "nginx has not been reloaded, since the daemon does not run: start it, or run `nginx -s reload`."


def _target(node: Node, asked: int | None) -> int:
    current = node.tree.current
    if not current:
        raise AgentdError("there is no generation yet; start the daemon first")
    target = asked or int(node.tree.manifest(current).get("parent") or 0)
    if not target:
        raise AgentdError(f"generation {current} is the first; see `agentd generations`, and name one")
    if target == current:
        raise AgentdError(
            f"generation {current} is current already; see `agentd generations`, and name another"
        )
    return target


def _owed(node: Node, handler: str, to: int) -> Owed:
    """The notification that the roll-back left for a handler: the newest of that generation."""
    rows = node.journal.history(handler=handler, identity=f"rollback-{to}", limit=1000)
    return handler, next(row["id"] for row in rows if row["id"].partition("#")[0] == f"rollback-{to}")
