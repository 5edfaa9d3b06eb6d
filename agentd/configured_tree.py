"""Opens the tree that a configuration describes, for the daemon and the commands alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agentd.config.load import Config
from agentd.nginx import include
from agentd.nginx.check import NginxCheck
from agentd.tree.tree import Tree
from agentd.tree.vault import Vault


def open_tree(config: Config, checked: Callable[[float], None] | None = None) -> Tree:
    """The tree of this configuration; nginx checks its candidates, if an nginx is configured.

    Args:
        config: the configuration.
        checked: called after each check with the seconds that it took.
    """
    nginx = config.nginx
    check = NginxCheck(nginx, config.tree.path) if nginx else _accept

    def timed(candidate: Path) -> None:
        began = time.monotonic()
        try:
            check(candidate)
        finally:
            if checked:
                checked(time.monotonic() - began)

    return Tree(
        config.tree.path,
        keep=config.tree.keep,
        check=timed,
        stamp=lambda number: {include.NAME: include.render(number, nginx, config.prefix)} if nginx else {},
        mirror=config.state / "mirror",
        prefix=config.prefix,
        vault=Vault(config.tree.secrets),
    )


def _accept(_candidate: Path) -> None:
    pass
