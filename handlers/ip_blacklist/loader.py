"""Loads the blacklist outside nginx, into the kernel's sets and HAProxy's ACL, and sees to it that it stays.

It is a separate handler that the blacklist notifies, so that what is loaded follows the tree: after every
commit, and after a rollback. It makes no list; it loads what the generation contains, and compares what is
there with it at the start and on a timer: a firewall's reload or a restart of HAProxy empties it without a
word.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from agentd import haproxy
from agentd.handler import (
    Change,
    Context,
    Drift,
    Duration,
    Handler,
    HandlerError,
    HandlerOptions,
    PermanentError,
    TemporaryError,
    Verdict,
)
from handlers.ip_blacklist import acl, child, comparison, nftables
from handlers.ip_blacklist.comparison import CompareJob, Loadable, part
from handlers.ip_blacklist.kernel import KERNEL, lacking, withheld
from handlers.ip_blacklist.options import ComparisonLimits
from handlers.ip_blacklist.outputs import FILES
from handlers.ip_blacklist.ranges import IPV4, Block, format_address

_PROGRAM: Final[dict[Loadable, str]] = {"nftables": "nft", "ipset": "ipset"}  # the option that names it


class BlacklistLoader(Handler):
    """Loads what `ip_blacklist` wrote into nftables, ipset or HAProxy, each in one atomic step."""

    class Options(HandlerOptions):
        """What to load, and where."""

        load: tuple[Loadable, ...] = Field(
            min_length=1,
            description="What to load: nftables, ipset, haproxy. Each must be in the blacklist's `outputs`.",
        )
        verify_every: Annotated[Duration, Field(ge=1)] = Field(
            60.0,
            description="How often the kernel's sets and HAProxy's ACL are compared with the generation, and"
            " loaded again if they differ.",
        )
        nft: str = Field(
            "nft", description="The nft program; it must act on the network in which agentd runs."
        )
        ipset: str = Field("ipset", description="The ipset program.")
        haproxy_socket: Path | None = Field(
            None, description="HAProxy's runtime socket; it needs `level admin`."
        )
        haproxy_acl: str | None = Field(
            None,
            pattern=r"^[!-~]+$",
            description="The ACL: its file as it appears in haproxy.cfg, or #ID.",
        )
        limits: ComparisonLimits = Field(
            ComparisonLimits(),
            description="What the program that compares what is loaded with the generation may use.",
        )

        @model_validator(mode="after")
        def _complete(self) -> BlacklistLoader.Options:
            if "haproxy" in self.load and (self.haproxy_socket is None or self.haproxy_acl is None):
                raise ValueError("haproxy needs haproxy_socket and haproxy_acl")
            return self

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._same: tuple[int | None, bytes] | None = None  # nftables' revision and file when they agreed
        self._entries: dict[Loadable, int] = {}  # of each output that could be compared

    @property
    def verify_every(self) -> float:
        """As the options say."""
        return self.options.verify_every

    def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (any notification means: load)
        """Load everything from the current generation."""
        for output in self.options.load:
            self._load(output, context)

    def verify(self, context: Context) -> Verdict:
        """Compare everything with the current generation, and load again what differs."""
        drift: list[Drift] = []
        mended: list[Drift] = []
        for output in self.options.load:
            try:
                harmed = self._harmed(output, context)
                if harmed and (context.dry_run or not context.mend):
                    drift += harmed
                elif harmed:
                    self._load(output, context)
                    left = {one.part for one in self._harmed(output, context)}
                    drift += [one for one in harmed if one.part in left]
                    mended += [one for one in harmed if one.part not in left]
            except HandlerError as error:
                drift.append(Drift(output, str(error)))
                self._entries.pop(output, None)
        gauges = {f"blacklist_{output}_entries": float(count) for output, count in self._entries.items()}
        if self._entries.keys() == set(self.options.load):
            gauges["blacklist_verified_timestamp_seconds"] = context.now
        return Verdict(tuple(drift), tuple(mended), gauges=gauges)

    def preflight(self, context: Context) -> Sequence[Drift]:  # noqa: ARG002 (this machine is asked)
        """Programs that are not installed, and rights that agentd's unit withholds."""
        found = [
            Drift(option, f"{self._place(output)} does not exist; install {output} or correct its path")
            for output, option in _PROGRAM.items()
            if output in self.options.load and shutil.which(self._place(output)) is None
        ]
        if set(_PROGRAM) & set(self.options.load) and (lacks := withheld()):
            found.append(Drift("load", lacks))
        socket = self.options.haproxy_socket
        if "haproxy" in self.options.load and socket and (doubt := haproxy.doubt(socket)):
            found.append(Drift("haproxy_socket", doubt, warning=True))
        return found

    def holds(self, block: Block) -> Iterator[tuple[str, bool | None, str]]:
        """Whether each set, and the ACL, has the block's first address.

        Yields:
            The part, the answer, and why there is none.
        """
        address = format_address(block.bits, block.first)
        for output in self.options.load:
            name = self._name(output, block)
            try:
                yield part(output, name), self._holds(output, name, address), ""
            except TemporaryError as error:
                yield part(output, name), None, str(error)

    # ------------------------------------------------------------------ one output

    def _load(self, output: Loadable, context: Context) -> None:
        file = _file(output, context)
        if output == "haproxy":
            if not context.dry_run:
                acl.load(self._place(output), self.options.haproxy_acl or "", file)
            return
        try:
            KERNEL[output].load(self._place(output), file, context)
        except TemporaryError as error:
            raise _with_cure(error) from error

    def _harmed(self, output: Loadable, context: Context) -> list[Drift]:
        """What differs from the generation. Raises TemporaryError if it cannot be read."""
        file = _file(output, context)
        now = (nftables.revision(), _digest(file)) if output == "nftables" else None
        if now is not None and now == self._same:
            return []
        job = CompareJob(output, str(file), self._place(output), self.options.haproxy_acl or "")
        try:
            found = comparison.read(child.ask(context, job, self.options.limits.limits))
        except TemporaryError as error:
            raise (error if output == "haproxy" else _with_cure(error)) from error
        self._entries[output] = sum(one.entries for one in found)
        harmed = [Drift(one.part, one.fault) for one in found if one.fault]
        if now is not None:
            self._same = None if harmed or now[0] is None else now
        return harmed

    def _holds(self, output: Loadable, name: str, address: str) -> bool:
        if output == "haproxy":
            return acl.holds(self._place(output), name, address)
        return KERNEL[output].holds(self._place(output), name, address)

    def _name(self, output: Loadable, block: Block) -> str:
        """The set for the block's family, or the ACL."""
        if output == "haproxy":
            return self.options.haproxy_acl or ""
        return list(KERNEL[output].SETS)[block.bits != IPV4]

    def _place(self, output: Loadable) -> str:
        places = {
            "haproxy": str(self.options.haproxy_socket),
            "ipset": self.options.ipset,
            "nftables": self.options.nft,
        }
        return places[output]


def _file(output: Loadable, context: Context) -> Path:
    file = context.files.path(FILES[output])
    if file is None:
        raise PermanentError(f"there is no {FILES[output]}: add {output} to the blacklist's `outputs`")
    return file


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _with_cure(error: TemporaryError) -> TemporaryError:
    """The error, and what this process lacks, if that is why."""
    lacks = lacking()
    return TemporaryError(f"{error}; {lacks}") if lacks else error
