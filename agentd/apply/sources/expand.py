"""Unpacks one file into another, never more of it than allowed, and never much of it in memory.

gzip (RFC 1952) and Zstandard (RFC 8878), several members or frames in a row included. A packed file that is
cut off, damaged, or followed by something else is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from agentd.apply.sources.allowance import Allowance
from agentd.errors import PermanentError

SUFFIXES: Final = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}
_ENCODINGS: Final = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_IN: Final = 64 * 1024
_OUT: Final = 1024 * 1024
_WINDOW_LOG: Final = 26
"""Most memory of a Zstandard frame's window, as a power of two: 64 MiB; --long=27 needs twice that."""


class _Decoder(Protocol):
    """What zlib's and zstd's decompressors have in common, once `_Gzip` has bent zlib's a little."""

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


def packing(name: str, encoding: str) -> str:
    """How a payload is packed: "gzip", "zstd" or "".

    Args:
        name: its file name.
        encoding: the Content-Encoding with which it came; one that the name says already is the same packing.

    Raises:
        PermanentError: an encoding that agentd does not know.
    """
    if encoding not in _ENCODINGS:
        raise PermanentError(f"it is packed as {encoding!r}: have it served plain, or as gzip or zstd")
    return SUFFIXES.get(Path(name).suffix.lower(), "") or _ENCODINGS[encoding]


def expand(source: str, packed: Path, kind: str, largest: int, allowance: Allowance) -> Path:
    """Unpack beside the packed file, which is removed.

    Args:
        source: what is unpacked, as it may be told.
        packed: the file.
        kind: "gzip" or "zstd".
        largest: the most bytes that may come out.
        allowance: the time for it.

    Returns:
        The plain file: the packed one's name without the suffix.

    Raises:
        PermanentError: it is damaged, cut off, or too large; or the library for it is not installed.
        TemporaryError: no time is left.
    """
    new, damaged = _decoder(kind)
    target = packed.with_name(f"{packed.name}.plain")
    try:
        with packed.open("rb") as given, _private(target) as taken:
            _pump(given, taken, new, largest, allowance)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, damaged):
            raise PermanentError(f"{source}: it is no whole {kind} file ({error})") from error
        if isinstance(error, _TooLargeError):
            raise PermanentError(
                f"{source}: more than {largest} bytes once unpacked (max_expanded)"
            ) from error
        raise
    packed.unlink()
    return target.rename(packed.with_name(_plain_name(packed)))


def _plain_name(packed: Path) -> str:
    suffix = packed.suffix.lower()
    if suffix not in SUFFIXES:
        return packed.name
    return packed.stem + (".tar" if suffix == ".tgz" else "")


class _TooLargeError(Exception):
    """More comes out than may."""


def _pump(
    given: BinaryIO, taken: BinaryIO, new: Callable[[], _Decoder], largest: int, allowance: Allowance
) -> None:
    size, decoder, data, fresh = 0, new(), b"", True
    while True:
        if not data and decoder.needs_input:
            allowance.left()
            data = given.read(_IN)
            if not data:
                break
        out = decoder.decompress(data, _OUT)
        data, fresh = b"", False
        size += len(out)
        if size > largest:
            raise _TooLargeError
        taken.write(out)
        if decoder.eof:
            data, decoder, fresh = decoder.unused_data, new(), True
    if not fresh or given.tell() == 0:
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
        raise PermanentError("to unpack .zst, install agentd[zstd]") from error
