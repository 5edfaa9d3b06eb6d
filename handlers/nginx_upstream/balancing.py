"""By which of nginx's methods the upstream is balanced: some of them do not go with changes at run time.

The method is in the handler's own file, or, where that only has the servers, in the block that includes it,
somewhere in nginx's files. Those are read when they have changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from agentd.nginx.files import NginxFiles, Snapshot

FIXED: Final = ("ip_hash", "hash", "random")
"""The methods that choose by more than whose turn it is."""

_COMMENT: Final = re.compile(rb"#[^\n]*")
_METHOD: Final = re.compile(rb"(?:^|[;{])[ \t\r]*(ip_hash|hash|random)[\s;]", re.MULTILINE)


class Balancing:
    """The method of one upstream."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._block = re.compile(rb"\bupstream\s+%b\s*\{([^}]*)" % re.escape(upstream).encode())
        self._snapshot: Snapshot | None = None
        self._written = ""

    def method(self, file: bytes, conf: Path) -> str:
        """One of `FIXED`; "" for another one, or none.

        Args:
            file: the handler's own.
            conf: nginx's main file.
        """
        text = _COMMENT.sub(b"", file)
        block = self._block.search(text)
        found = _METHOD.search(block[1] if block else text)
        if found or block:
            return found[1].decode() if found else ""
        return self._elsewhere(conf)

    def _elsewhere(self, conf: Path) -> str:
        if self._snapshot is None or not self._snapshot.holds():
            files = NginxFiles(conf, ("http", "upstream", *FIXED))
            names = [
                directive.name
                for directive in files.named(*FIXED)
                if directive.context == "upstream" and directive.blocks[-1].arguments == (self._upstream,)
            ]
            self._written, self._snapshot = names[0] if names else "", files.snapshot()
        return self._written
