"""A blacklist's change is applied only once the loader has seen it in the kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.fleet import Node
from tests.servers.waiting import wait_until

_LIAR = "#!/bin/sh\nexit 0\n"
# What it is told to load it keeps in a file, and lists from there.
_IPSET = """#!/bin/sh
cd "$(dirname "$0")" && touch sets || exit
case "$1 $2" in
"list -t") ;;
"restore -f") cp "$3" sets ;;
"restore ") cat >/dev/null ;;
save*) sed -n "s/^\\\\(create\\\\|add\\\\) $2_new /\\\\1 $2 /p" sets ;;
esac
"""


def test_what_the_kernel_lacks_is_not_applied(
    new_node: Callable[..., Node], directory: Path, suffix: str
) -> None:
    """An ipset that does nothing and says it did: nginx blocks, and the change waits for the set."""
    program = directory / "ipset"
    program.write_text(_LIAR)
    program.chmod(0o755)
    handlers = {
        "blacklist": {
            "use": "ip_blacklist",
            "on": [{"event": f"block{suffix}"}],
            "notify": ["nginx-reload", "loader"],
            "options": {"outputs": ["ipset"]},
        },
        "loader": {
            "use": "ip_blacklist_loader",
            "options": {"load": ["ipset"], "ipset": str(program), "verify_every": "1s"},
            "retry": {"longest": "1s"},
        },
        "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
    }
    node = new_node(handlers=handlers).start()
    event = node.fire(f"block{suffix}", b"198.51.100.7")

    def waiting() -> dict[str, Any]:
        entry = node.entry(event) or {}
        return entry if str(entry.get("reason", "")).startswith("not in effect: ") else {}

    waits = wait_until(waiting, "the change to wait", pause=0.1)
    honest = directory / "honest"
    honest.write_text(_IPSET)
    honest.chmod(0o755)
    honest.replace(program)  # in one step: nobody runs half of it
    done = node.outcome(event)

    assert waits["outcome"] is None
    assert waits["reason"].startswith("not in effect: ipset agentd4: there is no such set of the right kind")
    assert (done["outcome"], done["reason"]) == ("applied", "")
