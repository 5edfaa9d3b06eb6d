"""HAProxy's ACL: a new version is filled beside the one in use, and takes its place in one step.

Owns the file in the tree, how it gets into HAProxy, and how HAProxy's version is read back. The child uses it
as well.

Source: HAProxy's management guide, "prepare acl", "add acl", "commit acl", "show acl", "get acl"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.errors import TemporaryError

_BUFFER: Final = 12_000  # bytes of one line of commands: it must fit into HAProxy's buffer of 16 KiB
_TIMEOUT: Final = 10.0
_LARGEST: Final = 256 * 1_048_576  # bytes: two million entries, each with its address in HAProxy's memory
_VERSION: Final = re.compile(r"New version created: ([0-9]{1,10})\b")


def batch(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    """The lines of a file as `acl NAME src -f FILE` reads it."""
    return (f"{member}\n" for member in (*ipv4, *ipv6))


def load(socket: str, acl: str, file: Path) -> None:
    """Fill a new version of the ACL beside the one in use, then switch to it.

    Raises:
        TemporaryError: HAProxy does not answer, or has no such ACL; the version in use stays.
    """
    found = _VERSION.search(_ask(socket, f"prepare acl {acl}"))
    if found is None:
        raise _unknown(acl)
    version = int(found[1])
    try:
        for commands in _commands(file, f"add acl @{version} {acl} "):
            _order(socket, commands, "rejects an entry")
        _order(socket, f"commit acl @{version} {acl}", "cannot commit the ACL")
    except TemporaryError:
        with suppress(TemporaryError):  # where HAProxy is gone, what was filled is gone with it
            _ask(socket, f"clear acl @{version} {acl}")
        raise


def _order(socket: str, command: str, fault: str) -> None:
    """Give commands that are answered only if they fail."""
    if answer := _ask(socket, command):
        raise TemporaryError(f"HAProxy {fault}: {answer[:200]}")


def expected(file: Path) -> set[str]:
    """The entries of the file. Raises OSError."""
    return set(file.read_text(encoding="ascii").splitlines())


def present(socket: str, acl: str) -> set[str]:
    """The entries of the version in use.

    Raises:
        TemporaryError: HAProxy does not answer, or has no such ACL.
    """
    answer = _ask(socket, f"show acl {acl}")
    if answer.startswith("Unknown ACL"):
        raise _unknown(acl)
    return {line.partition(" ")[2] for line in answer.splitlines()}


def holds(socket: str, acl: str, address: str) -> bool:
    """Whether the version in use has an entry for an address. Raises TemporaryError as `present` does."""
    answer = _ask(socket, f"get acl {acl} {address}")
    if "match=" not in answer:
        raise _unknown(acl)
    return "match=yes" in answer


def _unknown(acl: str) -> TemporaryError:
    return TemporaryError(f"HAProxy has no ACL {acl}; add `acl NAME src -f FILE` to haproxy.cfg")


def _ask(socket: str, command: str) -> str:
    from agentd import haproxy  # noqa: PLC0415 (the child writes lists more often than it asks HAProxy)

    try:
        return haproxy.ask(f"unix:{socket}", command, _TIMEOUT, largest=_LARGEST).strip()
    except TemporaryError as error:
        raise TemporaryError(f"HAProxy's socket {socket}: {error}") from error


def _commands(file: Path, command: str) -> Iterator[str]:
    """One command per entry, all that HAProxy offers for an ACL; as many as fit into one line."""
    joined: list[str] = []
    size = 0
    for line in file.read_text(encoding="ascii").splitlines():
        size += len(command) + len(line) + 1
        if size > _BUFFER:
            yield ";".join(joined)
            joined, size = [], len(command) + len(line) + 1
        joined.append(command + line)
    if joined:
        yield ";".join(joined)
