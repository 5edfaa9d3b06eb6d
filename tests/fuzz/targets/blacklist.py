"""What may be fired at `ip_blacklist`, and what a feed may serve."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

from agentd.errors import HandlerError
from agentd.sources.decompressor import RefusedError, decompress, kind
from agentd.testing import HandlerHarness, event, message
from handlers.ip_blacklist.compile import CompileJob, compile_list
from handlers.ip_blacklist.formats import Format
from handlers.ip_blacklist.handler import IPBlacklist
from tests.fuzz.served import unpacked_here
from tests.fuzz.target import target

_MOST = 2**20  # bytes that may come out
_FEED = "https://feeds.example/list"
_LISTS = (
    "address-and-count.txt", "crowdsec-deleted-first.json", "crowdsec-null.json", "dshield.txt",
    "gzip-without-suffix", "late-entries.netset", "nbsp.txt", "netmask.txt",
    "ranges.txt", "slash-comments.txt",
)  # fmt: skip


@target(HandlerError)
def blacklist_payload(data: bytes) -> None:
    """Events with one payload each, separated by NUL; then the time passes at which entries end.

    Every other one is a message of the fleet's log that is an hour old.
    """
    blacklist = HandlerHarness(IPBlacklist, {"never_block_node": False})
    blacklist.initial()
    for number, payload in enumerate(data.split(b"\0")[:4]):
        change = event("block", payload, ltime=number)
        if number % 2:
            change = message("block", payload, num=number, issued=blacklist.now - 3600)
        blacklist.handle(change)
        blacklist.fingerprint()
    blacklist.advance(86_400.0)


@target(HandlerError, inputs=_LISTS)
def blacklist_list(data: bytes) -> None:
    """A list of a format that has to be found out."""
    blacklist = HandlerHarness(IPBlacklist, {"never_block_node": False})
    blacklist.initial()
    blacklist.payloads[_FEED] = data
    with unpacked_here():
        blacklist.handle(event("block", f"load {_FEED}"))


@target(inputs=_LISTS)
def blacklist_format(data: bytes) -> None:
    """A list of the format that the first byte chooses, as an option may."""
    forms = get_args(Format)
    form: Format = forms[data[0] % len(forms)] if data else "plain"
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        source = Path(directory, "source")
        source.write_bytes(data[1:])
        compile_list(CompileJob(str(source), directory, form, [], [], (8, 19), most=1000))


@target(RefusedError, inputs=("gzip-without-suffix",))
def unpack(data: bytes) -> None:
    """A packed payload."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        packed, plain = Path(directory, "packed"), Path(directory, "plain")
        packed.write_bytes(data)
        if kind(packed):
            decompress(packed, plain, _MOST)
            assert plain.stat().st_size <= _MOST
            assert not kind(plain)
