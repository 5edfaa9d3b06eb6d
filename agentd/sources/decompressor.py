"""A program that decompresses one file into another, never more than allowed, under limits of its own.

    python -I -m agentd.sources.decompressor PACKED PLAIN LARGEST CPU     prints {"error": TEXT} or {}

It knows gzip (RFC 1952) and Zstandard (RFC 8878), also with several members or frames in a row, and one
packed in the other. The content tells which, not the name. A file that is cut off, damaged, or followed by
something else is refused. It is a separate program, under limits, because its input comes from outside; it
imports nothing of agentd but `limits` and `room`, because its start counts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from errno import ENOMEM
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from agentd.limits import Limits
from agentd.sources import room

MEMORY: Final = 256 * 2**20
"""Bytes; the largest window of a Zstandard frame takes a quarter of it."""
SHORTEST: Final = 4
"""Bytes by which the content tells how it is packed."""
LAYERS: Final = 3
"""How often a file may be packed: once by its publisher, once by the server, and once more by mistake."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f (RFC 8878, 3.1.2)
_IN: Final = 64 * 1024
_OUT: Final = 1024 * 1024
_FEW_PARTS: Final = 10_000
_PART: Final = 1024
"""Bytes that members or frames must contain on average where there are many: to begin each takes time."""
_WINDOW_LOG: Final = 26
"""Largest window of a Zstandard frame, as a power of two: 64 MiB; --long=27 needs twice that."""


class RefusedError(Exception):
    """The file cannot, or may not, be decompressed; the text says why."""


class _Decoder(Protocol):
    """What zlib's and zstd's decompressors have in common, once `_Gzip` has adapted zlib's."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """One gzip member."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def kind(file: Path) -> str:
    """How a file is packed, by its first bytes: "gzip", "zstd" or "". Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(SHORTEST)
    if head.startswith(_GZIP):
        return "gzip"
    skippable = head[1:] == _SKIPPABLE and head[0] >> 4 == 0x5  # noqa: PLR2004 (as the format has it)
    return "zstd" if head == _ZSTD or skippable else ""


def decompress(packed: Path, plain: Path, largest: int) -> None:
    """Decompress a packed file until what comes out is not packed any more.

    Args:
        packed: the file; it is left alone.
        plain: is made, private.
        largest: bytes that may come out.

    Raises:
        RefusedError: it is damaged, cut off, too large, packed too often, or the library is not installed.
        OSError: a file cannot be read or written.
    """
    inner = plain.with_name(f"{plain.name}.inner")
    try:
        _unpack(packed, plain, largest)
        for _ in range(LAYERS - 1):
            if not kind(plain):
                return
            plain.rename(inner)
            _unpack(inner, plain, largest)
            inner.unlink()
        _check_plain(plain)
    except BaseException:
        for file in (plain, inner):
            file.unlink(missing_ok=True)
        raise


def _check_plain(file: Path) -> None:
    if kind(file):
        raise RefusedError(f"packed more than {LAYERS} times")


def _unpack(packed: Path, plain: Path, largest: int) -> None:
    found = kind(packed)
    new, damaged = _decoder(found)
    try:
        with packed.open("rb") as given, _private(plain) as taken:
            _pump(given, taken, new, largest)
    except damaged as error:
        raise RefusedError(f"not a complete {found} file ({error})") from error


def _pump(given: BinaryIO, taken: BinaryIO, new: Callable[[], _Decoder], largest: int) -> None:
    size, parts, decoder, data, fresh = 0, 0, new(), b"", True
    while True:
        if not data and decoder.needs_input:
            data = given.read(_IN)
            if not data:
                break
        out = decoder.decompress(data, _OUT)
        data, fresh = b"", False
        size += len(out)
        if size > largest:
            raise RefusedError(f"more than {largest} bytes once unpacked (max_expanded)")
        room.check(taken.fileno(), len(out))
        taken.write(out)
        if decoder.eof:
            data, decoder, fresh = decoder.unused_data, new(), True
            parts += 1
            if parts > _FEW_PARTS + size // _PART:
                raise RefusedError(f"its first {parts} members or frames contain only {size} bytes together")
    if not fresh:
        raise EOFError("cut off")


def _private(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb")


def _decoder(kind: str) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """A maker of decoders, and what they raise."""
    if kind == "gzip":
        return _Gzip, (zlib.error, EOFError)
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)


def _zstd() -> Any:  # noqa: ANN401 (a module of the same shape under two names)
    try:
        return importlib.import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError as error:
        raise RefusedError(
            "to decompress .zst, install what config/requirements/zstd.txt lists (docs/installing.md)"
        ) from error


def main(arguments: Sequence[str]) -> int:
    """Decompress as the arguments say; an error is an answer too."""
    packed, plain, largest = arguments
    answer: dict[str, object] = {}
    try:
        decompress(Path(packed), Path(plain), int(largest))
    except RefusedError as error:
        answer = {"error": str(error)}
    except OSError as error:
        if error.errno == ENOMEM:
            raise
        answer = {"error": error.strerror, "temporary": True}
    print(json.dumps(answer))  # noqa: T201 (standard output is this program's interface)
    return 0


if __name__ == "__main__":
    with Limits(memory=MEMORY, cpu=int(sys.argv[4]), alone=True).applied():
        sys.exit(main(sys.argv[1:4]))
