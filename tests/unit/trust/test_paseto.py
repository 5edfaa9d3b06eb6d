"""PASETO v4.public, with the vectors of its specification."""

from __future__ import annotations

from typing import Final

import pytest

from agentd.trust.keys import PublicKey, SecretKey
from agentd.trust.paseto import LARGEST_FOOTER, parse_token, sign
from tests.unit.trust.samples import OPS

# https://github.com/paseto-standard/test-vectors/blob/master/v4.json
SEED: Final = bytes.fromhex("b4cbfb43df4ce210727d953e4a713307fa19bb7d9f85041438d9e11b942a3774")
PUBLIC: Final = bytes.fromhex("1eb9dbbbbc047c03fd70604e0071f0987e16b28b757225c11f00415d0e20b1a2")
KEY: Final = SecretKey(SEED, PublicKey(PUBLIC))
PAYLOAD: Final = b'{"data":"this is a signed message","exp":"2022-01-01T00:00:00+00:00"}'
FOOTER: Final = b'{"kid":"zVhMiPBP9fRf2snEcT7gFTioeA9COcNy9DfgL1W60haN"}'
_BEGIN: Final = (
    "v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9"
)
_END: Final = ".eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9"
VECTORS: Final = {
    "4-S-1": (
        b"", b"",
        f"{_BEGIN}bg_XBBzds8lTZShVlwwKSgeKpLT3yukTw6JUz3W4h_ExsQV-P0V54zemZDcAxFaSeef1QlXEFtkqxT1ciiQEDA",
    ),
    "4-S-2": (
        FOOTER, b"",
        f"{_BEGIN}v3Jt8mx_TdM2ceTGoqwrh4yDFn0XsHvvV_D0DtwQxVrJEBMl0F2caAdgnpKlt4p7xBnx1HcO-SPo8FPp214HDw{_END}",
    ),
    "4-S-3": (
        FOOTER, b'{"test-vector":"4-S-3"}',
        f"{_BEGIN}NPWciuD3d0o5eXJXG5pJy-DiVEoyPYWs1YSTwWHNJq6DZD3je5gf-0M4JR9ipdUSJbIovzmBECeaWmaqcaP0DQ{_END}",
    ),
}  # fmt: skip
FORGED: Final = (  # 4-F-2
    "v4.public.eyJpbnZhbGlkIjoidGhpcyBzaG91bGQgbmV2ZXIgZGVjb2RlIn22Sp4gjCaUw0c7EH84ZSm_jN_Qr41MrgLNu5LIBCzUr1pn3Z-"
    f"Wukg9h3ceplWigpoHaTLcwxj0NsI1vjTh67YB{_END}"
)
LOCAL: Final = (  # 4-F-1
    "v4.local.vngXfCISbnKgiP6VWGuOSlYrFYU300fy9ijW33rznDYgxHNPwWluAY2Bgb0z54CUs6aYYkIJ-bOOOmJHPuX_34Agt_IPlNdGDpRdGN"
    "nBz2MpWJvB3cttheEc1uyCEYltj7wBQQYX.YXJiaXRyYXJ5LXN0cmluZy10aGF0LWlzbid0LWpzb24"
)
_LONG: Final = 10_000


@pytest.mark.parametrize("name", VECTORS)
def test_the_official_vectors_are_written(name: str) -> None:
    """Byte for byte, since Ed25519 has one signature for each message."""
    footer, assertion, token = VECTORS[name]
    assert sign(PAYLOAD, KEY, footer, assertion) == token


@pytest.mark.parametrize("name", VECTORS)
def test_the_official_vectors_are_read(name: str) -> None:
    """With the right assertion, and with no other."""
    footer, assertion, text = VECTORS[name]
    token = parse_token(text, _LONG)
    assert (token.payload, token.footer) == (PAYLOAD, footer)
    assert token.is_by(KEY.public, assertion)
    assert not token.is_by(KEY.public, b"{}")
    assert not token.is_by(OPS.public, assertion)


def test_the_official_forgery_is_refused() -> None:
    """A token whose signature is none."""
    assert not parse_token(FORGED, _LONG).is_by(KEY.public, b'{"test-vector":"4-F-2"}')


@pytest.mark.parametrize(
    "text",
    [
        LOCAL, "", "v4.public.", "v4.public..", "v4.public", "v3.public.AAAA", "V4.public.AAAA",
        f" {VECTORS['4-S-1'][2]}", f"{VECTORS['4-S-1'][2]}\n", f"{VECTORS['4-S-1'][2]}.",
        f"{VECTORS['4-S-1'][2]}==",
        f"{VECTORS['4-S-2'][2]}.AA", VECTORS["4-S-1"][2][:-1] + "B", "v4.public." + "A" * 86,
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str) -> None:
    """Another version or purpose, another spelling, a part more or less, nothing beside the signature."""
    with pytest.raises(ValueError, match=r"^(?!.*AAAA)."):
        parse_token(text, _LONG)


def test_what_is_too_long_is_refused_before_it_is_decoded() -> None:
    """The whole token, and its footer."""
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        parse_token(VECTORS["4-S-1"][2], 100)
    with pytest.raises(ValueError, match="footer"):
        parse_token(sign(b"{}", KEY, b"x" * (LARGEST_FOOTER + 1)), _LONG)
