"""What a command shows of a file, and what only of its length and digest."""

from __future__ import annotations

import pytest

from agentd.commands.file_difference import difference
from agentd.tree.generation import FileEntry


def never() -> bytes:
    """Fails the test: the content is read though it must not be shown."""
    raise AssertionError("a secret was read")


@pytest.mark.parametrize(
    "before, after",
    [
        (None, FileEntry.of("one", b"new", 0o600)),
        (None, FileEntry.of("one", b"new", 0o644, secret=True)),
        (FileEntry.of("one", b"old", 0o600), FileEntry.of("one", b"new", 0o644)),
        (FileEntry.of("one", b"old", 0o600), None),
    ],
)
def test_a_secret_is_not_even_read(before: FileEntry | None, after: FileEntry | None) -> None:
    """Neither what is new, nor what was secret before."""
    told = difference("a.key", before, after, never, never)

    assert told["diff"] is None
    assert "bytes sha256:" in told["before"] + told["after"]


@pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"x" * 300_000])
def test_what_is_no_text_or_very_long_is_told_by_its_digest(content: bytes) -> None:
    """A diff of it would help nobody."""
    told = difference("a", None, FileEntry.of("one", content, 0o644), never, lambda: content)

    assert told["diff"] is None
    assert told["before"] == "no file"
    assert told["after"].startswith(f"{len(content)} bytes")


def test_two_texts_are_compared_line_by_line() -> None:
    """As `diff -u` does."""
    before, after = (FileEntry.of("one", text, 0o644) for text in (b"a\nb\n", b"a\nc\n"))
    told = difference("x", before, after, lambda: b"a\nb\n", lambda: b"a\nc\n")

    assert told["diff"] == ["--- a/x", "+++ b/x", "@@ -1,2 +1,2 @@", " a", "-b", "+c"]
