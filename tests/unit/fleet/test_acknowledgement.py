"""An acknowledgement is read as it was written, and whatever else stands there is bounded or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.acknowledgement_codec import LARGEST, DocumentError, parse, render

_WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
_NUMBERS = st.integers(1, 8_999_999_999_999_999)
_TIMES = st.integers(0, 4_000_000_000).map(float)
_NAMES = st.builds(
    Name,
    live=st.none() | _NUMBERS,
    tried=st.none() | st.builds(Tried, num=_NUMBERS, outcome=_WORDS, reason=_WORDS),
    provisional=st.integers(0, 9),
    incomplete_since=st.none() | st.integers(0, 9) | _NUMBERS,
    failed=st.lists(st.builds(Tried, num=_NUMBERS, outcome=_WORDS, reason=_WORDS), max_size=3).map(tuple),
    waits=_WORDS,
)
_HANDLERS = st.builds(
    HandlerReport,
    names=st.lists(_WORDS, max_size=3).map(tuple),
    fingerprint=st.none() | _WORDS.filter(bool),
    outcome=_WORDS,
    at=st.none() | _TIMES.filter(bool),
    drift=_WORDS,
    report=st.dictionaries(_WORDS, _WORDS, max_size=2),
    past=_WORDS,
)
DOCUMENTS = st.builds(
    Acknowledgement,
    agentd=_WORDS,
    node_id=_WORDS,
    boot=_WORDS,
    written=_TIMES,
    generation=st.integers(0, 10**6),
    names=st.dictionaries(_WORDS, _NAMES, max_size=3),
    handlers=st.dictionaries(_WORDS, _HANDLERS, max_size=3),
    options=st.dictionaries(_WORDS, _WORDS, max_size=3),
    drift=st.dictionaries(_WORDS, _WORDS, max_size=2),
    not_served=_WORDS,
    stopped=st.none() | _TIMES.filter(bool),
    paused=_WORDS,
    instance=_WORDS,
    datacenter=_WORDS,
)


def _document(**fields: object) -> bytes:
    whole = {"format": 1, "agentd": "1", "node_id": "id", "boot": "b", "written": 1}
    return json.dumps(whole | fields).encode()


@given(DOCUMENTS)
def test_what_is_written_is_read_again(document: Acknowledgement) -> None:
    """With every field."""
    assert parse(render(document)) == document


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 30_000,
        b"[]",
        b"{}",
        _document(format="1"),
        _document(format=True),
        _document(written=float("1e400")),
        _document(names=[]),
        _document(names={"block": {"live": -1}}),
        _document(names={"block": {"live": 9_000_000_000_000_000}}),
        _document(names={str(one): {} for one in range(300)}),
        _document(handlers={"a": {"report": [[[[[[[[1]]]]]]]]}}),
        _document(agentd="x" * LARGEST),
    ],
    ids=lambda data: data[:40].decode(errors="replace"),
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """With an error, never with an empty one."""
    with pytest.raises(DocumentError):
        parse(data)


def test_a_newer_format_is_read_as_far_as_it_is_known() -> None:
    """What has changed its form is listed, and what is new is not looked at."""
    found = parse(
        _document(format=9, boot={}, colour="red", names={"block": {"live": 7, "tried": [8]}, "odd": 3})
    )

    assert found.names == {"block": Name(live=7), "odd": Name()}
    assert found.unread == ("boot", "names.block.tried", "names.odd")
    assert found.format == 9


def test_a_text_that_steers_a_terminal_is_escaped() -> None:
    """Wherever it stands: whoever shows a document need not think of it."""
    found = parse(
        _document(
            agentd="\x1b[31m",
            names={"\x1bx": {"tried": {"num": 1, "reason": "\u202e"}}},
            handlers={"a": {"report": {"ring": [{"key": "\x07"}]}}},
        )
    )

    assert found.agentd == r"\x1b[31m"
    assert found.names[r"\x1bx"].tried == Tried(1, "", r"\u202e")
    assert found.reported("ring") == {"a": [{"key": r"\x07"}]}


def test_a_document_stays_within_its_bound() -> None:
    """Reports, earlier failures and long texts go before what is live does."""
    handlers = {
        f"handler{one}": HandlerReport(drift="d" * 900, report={"text": "r" * 1900}) for one in range(30)
    }
    failed = Tried(6, "failed", "x" * 400)
    names = {f"name{one}": Name(live=5, tried=failed, failed=(failed,) * 8) for one in range(60)}
    found = parse(render(Acknowledgement("1", "id", "b", 1.0, names=names, handlers=handlers)))

    assert {name: one.live for name, one in found.names.items()} == dict.fromkeys(names, 5)
    assert found.handlers["handler1"].report == {}


def test_a_document_that_cannot_be_made_small_is_not_written() -> None:
    """A part of it would be taken for the whole."""
    names = {f"a-name-of-some-length-{one}": Name(tried=Tried(1, "failed", "x" * 400)) for one in range(250)}

    with pytest.raises(DocumentError, match="takes too many names"):
        render(Acknowledgement("1", "id", "b", 1.0, names=names))


def test_when_it_was_written_makes_no_difference() -> None:
    """So that an unchanged one is not written again."""
    first = Acknowledgement("1", "id", "b", 1.0)

    assert first.same_as(Acknowledgement("1", "id", "b", 2.0))
    assert not first.same_as(Acknowledgement("1", "id", "c", 1.0))
    assert not first.same_as(None)
