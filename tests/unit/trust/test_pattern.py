"""Patterns of kept names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.trust.pattern import fits, overlap, parse_pattern

names = st.text("ab", min_size=1, max_size=3)
patterns = st.builds(
    lambda name, end: name + end, st.text("ab", max_size=3), st.sampled_from(["", "*"])
).filter(bool)


@given(one=patterns, other=patterns)
def test_patterns_overlap_if_a_name_fits_both(one: str, other: str) -> None:
    """The shortest such name is one of the two patterns without its `*`, or one character longer."""
    tried = [text.removesuffix("*") + end for text in (one, other) for end in ("", "a")]
    assert overlap(one, other) == any(fits(name, one) and fits(name, other) for name in tried if name)


@pytest.mark.parametrize("text", ["", "**", "a*b", "*a", "a b", "-a", "é", "a" * 65])
def test_what_no_name_is_and_no_beginning_of_one_is_no_pattern(text: str) -> None:
    """It would never fit anything."""
    with pytest.raises(ValueError, match="must be a name"):
        parse_pattern(text)
