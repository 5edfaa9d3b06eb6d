"""What a payload becomes before it is handed over: itself, or what comes out of it if it is compressed.

The content decides, since servers and publishers leave out the suffix or the header, and transports
decompress in passing. The work is done by `decompressor`, under limits.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.limits import Limits
from agentd.process import run
from agentd.sources import decompressor

_SUFFIXES: Final = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}
_ENCODINGS: Final = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_ANSWER: Final = 64 * 1024


def announced(name: str, encoding: str) -> str:
    """How a payload should be compressed: "gzip", "zstd" or "".

    Args:
        name: its file name.
        encoding: its Content-Encoding: one, or several with commas.

    Raises:
        PermanentError: agentd does not know the encoding.
    """
    encodings = [one.strip() for one in encoding.split(",")]
    if unknown := [one for one in encodings if one not in _ENCODINGS]:
        raise PermanentError(f"its Content-Encoding is {unknown[0]!r}: serve it plain, or as gzip or zstd")
    return _SUFFIXES.get(Path(name).suffix.lower(), "") or _ENCODINGS[encodings[-1]]


def unpack(source: str, path: Path, expected: str, largest: int, deadline: Deadline) -> Path:
    """Decompress a file, if it is compressed, and drop the suffix of its name that says so.

    Args:
        source: what it is, as messages name it.
        path: the file, which is replaced.
        expected: what `announced` says: what should be compressed is not taken for plain if it is cut off.
        largest: bytes that may come out.
        deadline: by when.

    Raises:
        PermanentError: it is damaged, cut off, or too large; or the library for it is not installed.
        TemporaryError: no time is left, or the disk is full.
    """
    plain = path.with_name(_plain_name(path))
    if not decompressor.kind(path):
        if expected and path.stat().st_size < decompressor.SHORTEST:
            raise PermanentError(f"{source}: not a complete {expected} file (cut off)")
        return path.rename(plain)
    target = path.with_name(f"{path.name}.plain")
    _decompress(source, path, target, largest, deadline)
    path.unlink()
    return target.rename(plain)


def _decompress(source: str, packed: Path, plain: Path, largest: int, deadline: Deadline) -> None:
    left = deadline.left()
    limits = Limits(memory=decompressor.MEMORY, cpu=max(1, math.ceil(left / 2)))
    argv = [sys.executable, "-I", "-m", decompressor.__name__]
    done = run(
        [*argv, str(packed), str(plain), str(largest), str(limits.cpu)],
        timeout=left,
        check=False,
        keep=_ANSWER,
        most=_ANSWER,
        stop=deadline.stop,
    )
    if exceeded := limits.exceeded(done.returncode):
        raise PermanentError(f"{source}: decompressing it takes {exceeded}")
    try:
        answer: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    except (ValueError, IndexError):
        raise TemporaryError(f"{source}: not decompressed: the program {done.ending}") from None
    if "error" in answer:
        raise (TemporaryError if answer.get("temporary") else PermanentError)(f"{source}: {answer['error']}")


def _plain_name(packed: Path) -> str:
    suffix = packed.suffix.lower()
    if suffix not in _SUFFIXES:
        return packed.name
    return packed.stem + (".tar" if suffix == ".tgz" else "")
