"""base64url in its one spelling, and PAE."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.trust.encoding import decode64, encode64, pae


@given(data=st.binary(max_size=100))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    """In every length, without padding."""
    assert decode64(encode64(data)) == data
    assert "=" not in encode64(data)


@pytest.mark.parametrize("text", ["YQ==", "YR", "YQ\n", " YQ", "Y", "YWI+", "YW.I", "YQé", "YQ=", "="])
def test_another_spelling_is_refused(text: str) -> None:
    """Padding, bits that mean nothing, white space, the other alphabet."""
    with pytest.raises(ValueError, match=r"."):
        decode64(text)


@given(text=st.text(max_size=12))
def test_a_text_that_is_decoded_has_no_second_spelling(text: str) -> None:
    """Whatever is accepted is what would be written."""
    try:
        data = decode64(text)
    except ValueError:
        return
    assert encode64(data) == text


@pytest.mark.parametrize(
    "pieces,expected",
    [
        ([], b"\0" * 8),
        ([b""], b"\1" + b"\0" * 15),
        ([b"test"], b"\1" + b"\0" * 7 + b"\4" + b"\0" * 7 + b"test"),
    ],
)
def test_pae_is_that_of_the_specification(pieces: list[bytes], expected: bytes) -> None:
    """These are its own examples."""
    assert pae(*pieces) == expected


@given(one=st.lists(st.binary(max_size=20), max_size=4), other=st.lists(st.binary(max_size=20), max_size=4))
def test_no_two_lists_look_alike(one: list[bytes], other: list[bytes]) -> None:
    """So that nothing can move from one piece to the next."""
    assert (pae(*one) == pae(*other)) == (one == other)
