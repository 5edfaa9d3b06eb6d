"""How long nginx lets a TLS session be resumed, as its configuration files say.

A key that has stopped encrypting is needed for that long. Pure but for reading those files.
https://nginx.org/en/docs/http/ngx_http_ssl_module.html#ssl_session_timeout
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from agentd.nginx.files import NginxFiles

_DIRECTIVE: Final = "ssl_session_timeout"
DEFAULT: Final = 300
"""Seconds, unless the files say otherwise."""
_SECONDS: Final = (31_536_000, 2_592_000, 604_800, 86_400, 3600, 60, 1)
# The units in this order, each at most once; a number without a unit means seconds.
# https://nginx.org/en/docs/syntax.html
_TIME: Final = re.compile(
    r" ?".join(f"(?:([0-9]{{1,10}}){unit})?" for unit in "yMwdhm") + r" ?(?:([0-9]{1,10})s?)?"
)


def longest(conf: Path) -> int | None:
    """The longest one of all servers, in seconds; None if the files do not say it.

    Args:
        conf: nginx's main configuration file.
    """
    files = NginxFiles(conf, ("http", "server", _DIRECTIVE))
    found = files.named(_DIRECTIVE)
    times = [_seconds(" ".join(one.arguments)) for one in found]
    if files.problems or None in times:
        return None
    everywhere = any(one.context == "http" for one in found)
    return max([time for time in times if time is not None] + ([] if everywhere else [DEFAULT]))


def _seconds(text: str) -> int | None:
    matched = _TIME.fullmatch(text) if text else None
    if matched is None:
        return None
    return sum(int(number or 0) * unit for number, unit in zip(matched.groups(), _SECONDS, strict=True))
