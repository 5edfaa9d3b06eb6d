"""A reference is published with the digest of what it refers to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from agentd.commands.pinned_reference import pin
from agentd.config.yaml_document import Document
from agentd.errors import AgentdError
from agentd.watch.options import ConsulOptions

CONTENT = b"site\n"
HEX = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A reference to a file."""
    path = tmp_path / "allowed" / "site.txt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return f"file:{path}"


@pytest.fixture
def document(file: str) -> Document:
    """A configuration that allows it."""
    return Document(json.dumps({"sources": {"allow": [file.rpartition("/")[0]]}}), "agentd.yaml")


def pinned(text: str, document: Document | None, *, fetch: bool = True) -> str:
    """What would be published."""
    return pin(text, document, ConsulOptions(), fetch=fetch)


def test_the_digest_is_computed(file: str, document: Document) -> None:
    """So that every node applies the same bytes."""
    assert pinned(file, document) == f"{file} sha256:{HEX}"


def test_a_digest_that_is_given_is_verified(file: str, document: Document) -> None:
    """And published as it was given."""
    assert pinned(f" {file} sha256:{HEX}", document) == f"{file} sha256:{HEX}"
    with pytest.raises(AgentdError, match=r"not published: .*sha256"):
        pinned(f"{file} sha256:{OTHER}", document)


def test_a_digest_that_is_given_need_not_be_verified(file: str, document: Document) -> None:
    """Where whoever publishes says so."""
    assert pinned(f"{file} sha256:{OTHER}", document, fetch=False) == f"{file} sha256:{OTHER}"


@pytest.mark.parametrize("text", [None, "{}"])
def test_what_must_not_be_fetched_needs_its_digest(
    file: str, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With it, it is published unverified, which is told."""
    document = None if text is None else Document(text, "agentd.yaml")
    with pytest.raises(
        AgentdError, match=r"add it, or a prefix of it, to sources\.allow; or give its digest"
    ):
        pinned(file, document)
    assert pinned(f"{file} sha256:{HEX}", document) == f"{file} sha256:{HEX}"
    assert "its digest is not verified" in capsys.readouterr().err


def test_what_is_not_there_is_not_published(file: str, document: Document) -> None:
    """The reason is that of the fetch."""
    with pytest.raises(AgentdError, match="not published: file:"):
        pinned(f"{file}.gone", document)


@pytest.mark.parametrize("text", ["site.txt", "ftp://host/a", "kv:", "https://h/a md5:00"])
def test_what_is_no_reference_is_refused(text: str, document: Document) -> None:
    """Before anything is fetched."""
    with pytest.raises(AgentdError, match=r"^--reference: "):
        pinned(text, document)


def test_a_query_is_published_and_never_shown(document: Document) -> None:
    """It may be a signature."""
    with pytest.raises(AgentdError) as raised:
        pinned("https://h/a?5ecret", document)
    assert "5ecret" not in str(raised.value)
    assert pinned(f"https://h/a?5ecret sha256:{HEX}", None).startswith("https://h/a?5ecret ")


def test_nothing_is_left_behind(
    file: str, document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched is removed."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    pinned(file, document)
    assert list(room.iterdir()) == []
