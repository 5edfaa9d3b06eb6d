"""One module per command; `agentd.cli` imports only the one that was typed.

Each has `add_arguments(parser)` and `execute(arguments, output)`, which returns the exit status. Commands
read the journal and the tree, and write only through `apply/`; what they print goes through `output`, which
keeps control characters out.
"""

from __future__ import annotations

from typing import Final

OWN: Final = {
    "init": "write what is missing on this machine: configuration, units, nginx includes; show it first",
    "run": "run the daemon",
    "check": "check the configuration, Consul and its ACLs, nginx, the directories, the handlers, the daemon",
    "status": "show whether all is well on this node, and what is wrong if not",
    "history": "show which changes arrived, what became of them, and why",
    "generations": "list, show and compare the numbered versions of the files that nginx loads",
    "rollback": "make an earlier generation current again and have nginx load it",
    "pause": "have handlers on this node take nothing new for a while",
    "resume": "let paused handlers on this node go on",
    "render": "print the files that a handler would write now, without the daemon",
    "replay": "hand a change to its handlers again",
    "fire": "fire a Consul user event",
    "fleet": "show which nodes of the fleet run what, and which of them differ",
    "publish": "write a message to the fleet's log, for all its nodes, including those that are down",
    "rollout": "show the rollouts that are open, or abort one (`agentd publish --canary` begins them)",
    "freeze": "have the nodes of the fleet hold back what is new",
    "thaw": "let the nodes of a frozen fleet go on",
    "log": "show the messages in the fleet's log, or drop them",
    "keys": "generate, show and rotate the keys that sign and encrypt messages; sign again with new ones",
    "tickets": "show how far the rotation of session ticket keys is, and which one encrypts on which nodes",
    "leave": "take this node out of the fleet for good",
    "example": "list the examples that come with agentd, print one, or copy it",
    "handlers": "list the installed handlers and their options",
    "nodes": "list the addresses of a service's instances",
    "lock": "run a command while holding a lock in Consul, like `consul lock`",
    "import-watches": "convert a Consul agent's watches to agentd's YAML",
}
"""agentd's own commands, each with its line of help; `import-watches` is the module `import_watches`."""
