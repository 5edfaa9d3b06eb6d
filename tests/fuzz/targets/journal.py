"""The files that agentd reads again at its start, damaged in any way."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from agentd.errors import FormatError, JournalError
from agentd.journal.history import history
from agentd.journal.journal import Journal
from agentd.testing import event, key
from agentd.tree.generation import Manifest
from tests.fuzz.target import target

_PATCH = 6  # bytes: where, how many, and what


@target(JournalError, FormatError)
def journal_file(data: bytes) -> None:
    """A journal with some of its bytes replaced: it is opened, mended and read, or refused."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        file = Path(directory, "journal")
        content = bytearray(_sound())
        for at in range(0, len(data) - _PATCH + 1, _PATCH):
            place = int.from_bytes(data[at : at + 3], "big") % len(content)
            content[place : place + 1 + data[at + 3] % 16] = data[at + 4 : at + 6] * (
                1 + data[at + 3] % 16 // 2
            )
        file.write_bytes(content)
        journal = Journal(file, opened=False)
        try:
            journal.database.open(mend=True)
            journal.pending("fuzz")
            journal.store("fuzz")
            history(journal)
            journal.receive([(event("name", b"new"), ["fuzz"])], listed=[])
        finally:
            journal.close()


@cache
def _sound() -> bytes:
    """A journal with one entry of each kind."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        journal = Journal(Path(directory, "journal"))
        journal.receive([(event("name", b"payload"), ["fuzz"]), (key("a", b"b"), ["fuzz"])], listed=[])
        journal.database.flush()
        journal.close()
        copy = shutil.copy(Path(directory, "journal"), Path(directory, "copy"))
        return Path(copy).read_bytes()


@target(ValueError, FormatError, structured=True)
def generation_manifest(data: bytes) -> None:
    """The manifest of a generation."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        file = Path(directory, "manifest.json")
        file.write_bytes(data)
        Manifest.load(file)
