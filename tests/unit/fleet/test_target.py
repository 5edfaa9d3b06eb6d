"""Whom a message is for: its filters are an outsider's, and must not hold up a node."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BadDocument
from agentd.fleet.target import compiled

_STEPS = (
    ".*",
    ".+",
    ".?",
    ".{0,99}",
    "(.|a)",
    "(a|.|aa)",
    "((a|.)(.|a)|a.)",
    "[^)]?",
    r"\\?",
    "a",
    "^",
    "$",
    "|",
)
_MOST = 20.0  # seconds of the processor: a hundred times what is measured, and a blink of what was refused


@pytest.mark.parametrize("pattern", [".?" * 40 + "!", "(.|.)" * 40 + "!", "(a|b|ab)" * 20, ".*" * 4, "(a?)*"])
def test_what_could_take_for_ever_is_not_tried(pattern: str) -> None:
    """A name of 40 characters would keep the node busy for hours."""
    with pytest.raises(BadDocument, match="could take long"):
        compiled(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "^web", "web|db", "^(web|db|app)-(eu|us)-[0-9]+$", r"^lb-?\d+\.dc[12]\.example\.com$",
        "|".join(f"web{number}" for number in range(60)), f"^({'|'.join('abcdefghij')})$", "[(|*]", r"\(\|",
    ],
)  # fmt: skip
def test_what_people_write_is_tried(pattern: str) -> None:
    """Also a long list of names."""
    compiled(pattern)


@given(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=60).map("".join))
def test_what_is_tried_ends_soon(pattern: str) -> None:
    """Whatever it is made of, on a name that it almost matches."""
    try:
        expression = compiled(f"{pattern}!")
    except BadDocument:
        return
    began = time.thread_time()
    expression.search("a" * 64)
    assert time.thread_time() - began < _MOST
