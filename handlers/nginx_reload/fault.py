"""Finds out whose fault it is that nginx does not load a generation that the check accepted.

Owns that question, with `nginx -t` on the current generation and on those that are served. Must not change
anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from agentd.handler import Context
from agentd.nginx.check import NginxCheck
from agentd.nginx.files import Directive, NginxFiles

_TAKEN: Final = re.compile(r"bind\(\) to (\S+) failed \(\d+: ([^)]*)\)")


class Finding(NamedTuple):
    """What `look` found.

    Attributes:
        elsewhere: what is wrong outside the generation, and what to do; "" if the generation is at fault.
        took: seconds that `nginx -t` took.
    """

    elsewhere: str
    took: float


def look(context: Context, served: Collection[str], emergencies: Collection[str]) -> Finding:
    """Find what keeps nginx from loading the current generation.

    Args:
        context: of the attempt.
        served: the generations that nginx's workers serve now, as they say.
        emergencies: the [emerg] messages of the reload.

    Raises:
        TemporaryError: nginx cannot be run.
    """
    nginx = context.nginx
    tree = (nginx.conf.parent / context.files.reference("agentd.conf")).parents[1]
    current = (tree / "current").resolve()
    check = NginxCheck(nginx, tree)
    began = time.monotonic()
    complaint = check.complaint(current)
    took = time.monotonic() - began
    if complaint is None:
        return Finding(_taken(nginx.conf, tree, emergencies), took)
    blame = (
        f"its configuration was broken outside the tree since the check of this change; fix it: {complaint}"
    )
    for number in sorted(served, reverse=True):
        earlier = tree / "generations" / f"{number:0>6}"
        if number.isdigit() and earlier != current and earlier.is_dir():
            return Finding("" if check.complaint(earlier) is None else blame, took)
    return Finding("" if str(current) in complaint else blame, took)


def _taken(conf: Path, tree: Path, emergencies: Collection[str]) -> str:
    """An address that nginx could not bind, if no `listen` in the tree asks for it."""
    for message in emergencies:
        if not (found := _TAKEN.match(message)):
            continue
        address, reason = found.groups()
        listens = [one for one in NginxFiles(conf).named("listen") if _is_of(one, address)]
        if listens and not any(one.file.is_relative_to(tree) for one in listens):
            where = listens[0].place
            return f"{where}: nginx cannot listen on {address} ({reason}); correct that line, or free it"
    return ""


def _is_of(listen: Directive, address: str) -> bool:
    """Whether the directive asks for the address, such as 0.0.0.0:80, [::]:80 or unix:/run/x.sock."""
    wanted = listen.arguments[0] if listen.arguments else ""
    if wanted.startswith("unix:") or address.startswith("unix:"):
        return wanted == address
    host, _, port = address.rpartition(":")
    if wanted.isdigit():
        return wanted == port and host == "0.0.0.0"  # noqa: S104 (compared, not bound)
    asked, _, asked_port = wanted.rpartition(":") if re.search(r":\d+$", wanted) else (wanted, "", "80")
    return asked_port == port and (asked in (host, "") or asked == "*" or not re.match(r"[\d\[]", asked))
