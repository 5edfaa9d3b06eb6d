"""Loads the blacklist where nginx is not asked: the kernel's sets, HAProxy's ACL.

It is a handler of its own, notified by the blacklist's, so that what runs follows the tree: after every
commit, and after a roll-back. It makes no list; what it loads stands in the generation.

Source: HAProxy's management guide, "prepare acl", "add acl", "commit acl"
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator

from agentd.handler import Change, Context, Handler, HandlerOptions, PermanentError, TemporaryError
from handlers.ip_blacklist.union import FILES

_BUFFER: Final = 12_000  # bytes of one line of commands: it must fit into HAProxy's buffer of 16 KiB
_TIMEOUT: Final = 10.0
_VERSION: Final = re.compile(rb"New version created: ([0-9]+)")


class BlacklistLoader(Handler):
    """Loads what `ip_blacklist` wrote into nftables, ipset or HAProxy, each in one atomic step."""

    class Options(HandlerOptions):
        """What is loaded, and where."""

        load: tuple[Literal["nftables", "ipset", "haproxy"], ...] = Field(
            min_length=1, description="nftables, ipset, haproxy: `outputs` of the blacklist must have them."
        )
        nft: str = Field("nft", description="The nft program.")
        ipset: str = Field("ipset", description="The ipset program.")
        haproxy_socket: Path | None = Field(None, description="HAProxy's runtime socket, with `level admin`.")
        haproxy_acl: str | None = Field(
            None,
            pattern=r"^[!-~]+$",
            description="The ACL's file as haproxy.cfg names it, or #ID of the ACL.",
        )

        @model_validator(mode="after")
        def _complete(self) -> BlacklistLoader.Options:
            if "haproxy" in self.load and (self.haproxy_socket is None or self.haproxy_acl is None):
                raise ValueError("haproxy needs haproxy_socket and haproxy_acl")
            return self

    options: Options

    def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (whatever notified it)
        """Load all that is current."""
        for output in self.options.load:
            file = context.files.path(FILES[output])
            if file is None:
                raise PermanentError(
                    f"there is no {FILES[output]}: name {output} in the blacklist's `outputs`"
                )
            if output == "nftables":
                context.run([self.options.nft, "-f", str(file)])
            elif output == "ipset":
                # What an attempt that was cut short left behind would make `create` fail.
                for name in ("agentd4_new", "agentd6_new"):
                    context.run([self.options.ipset, "destroy", name], check=False)
                context.run([self.options.ipset, "restore", "-f", str(file)])
            elif not context.dry_run:
                self._load_acl(file)

    def _load_acl(self, file: Path) -> None:
        """Fill a new version of the ACL beside the one in use, then let it take over."""
        acl = self.options.haproxy_acl or ""
        found = _VERSION.search(self._ask(f"prepare acl {acl}"))
        if found is None:
            raise TemporaryError(f"HAProxy has no ACL {acl}; `acl NAME src -f FILE` in haproxy.cfg makes one")
        version = int(found[1])
        for commands in _batches(file, f"add acl @{version} {acl} "):
            answer = self._ask(commands).strip()
            if answer:
                raise TemporaryError(
                    f"HAProxy does not take the ACL: {answer[:200].decode(errors='replace')}"
                )
        answer = self._ask(f"commit acl @{version} {acl}").strip()
        if answer:
            raise TemporaryError(f"HAProxy does not commit the ACL: {answer[:200].decode(errors='replace')}")

    def _ask(self, command: str) -> bytes:
        path = str(self.options.haproxy_socket)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_TIMEOUT)
                connection.connect(path)
                connection.sendall(f"{command}\n".encode())
                return b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError as error:
            raise TemporaryError(f"HAProxy's socket {path} does not answer: {error}") from error


def _batches(file: Path, command: str) -> Iterator[str]:
    """One command a CIDR, which is all that HAProxy knows for an ACL; as many as it reads at once."""
    batch: list[str] = []
    size = 0
    for line in file.read_text(encoding="ascii").splitlines():
        size += len(command) + len(line) + 1
        if size > _BUFFER:
            yield ";".join(batch)
            batch, size = [], len(command) + len(line) + 1
        batch.append(command + line)
    if batch:
        yield ";".join(batch)
