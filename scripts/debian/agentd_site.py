"""Adds /usr/local/lib/agentd to where Python looks in agentd's environment, unless others could write to it.

A line of a .pth file imports this at each start of Python, so it imports nothing that Python has not. On a
host that began as an old Debian, the group staff may write to /usr/local, and agentd runs as root.
"""

# pathlib would take time at each start:
# ruff: noqa: PTH112, PTH116, PTH120

import os
import stat
import sys

_SITE = "/usr/local/lib/agentd"


def problem(directory: str) -> str:
    """Why code from there must not run as the user that we are; "" if it may."""
    for last in dict.fromkeys((directory, os.path.realpath(directory))):
        place = last
        while True:
            found = os.stat(place)
            others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid else 0)
            if found.st_mode & others and not (found.st_mode & stat.S_ISVTX and place != last):
                return f"others than root can write to {place}: chmod go-w {place}"
            if found.st_uid not in (0, os.geteuid()):
                return f"{place} belongs to another user: chown root {place}"
            if place == os.path.dirname(place):
                break
            place = os.path.dirname(place)
    return ""


def add(directory: str, path: list[str], started: list[str]) -> None:
    """Add it to the path if it is there and may be; if not, only `agentd` says so, and no part of it."""
    if not os.path.isdir(directory):
        return
    why = problem(directory)
    if not why:
        path.append(directory)
    elif started[1:4] == ["-I", "-m", "agentd"]:
        sys.stderr.write(f"agentd: warning: {directory} is not used, because {why}\n")


add(_SITE, sys.path, sys.orig_argv)
