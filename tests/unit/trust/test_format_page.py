"""The page about the format says what agentd does."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.fleet.envelope import parse_envelope
from agentd.fleet.rollout import Admission, share
from agentd.trust.claims import _OPTIONAL, _REQUIRED
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import FleetKey, SecretKey, parse_public_key, parse_secret
from agentd.trust.message import parse_message

PAGE: Final = Path(__file__).parents[3] / "docs" / "message-format.md"


@pytest.fixture
def vectors() -> Any:  # noqa: ANN401 (any JSON)
    """Those of the page."""
    (block,) = re.findall(r"(?ms)^```json\n(.*?)^```$", PAGE.read_text())
    return json.loads(block)


def keys(vectors: Any) -> tuple[SecretKey, FleetKey]:  # noqa: ANN401 (as above)
    """Of the vectors."""
    secret, fleet = parse_secret(vectors["secret"]), parse_secret(vectors["fleet"])
    assert isinstance(secret, SecretKey)
    assert isinstance(fleet, FleetKey)
    return secret, fleet


def test_the_keys_of_the_page_have_their_ids(vectors: Any) -> None:  # noqa: ANN401 (as above)
    """And belong together."""
    secret, fleet = keys(vectors)
    assert secret.public == parse_public_key(vectors["public"])
    assert (secret.kid, fleet.kid) == (vectors["publisher"], vectors["key"])


def test_the_messages_of_the_page_are_read(vectors: Any) -> None:  # noqa: ANN401 (as above)
    """Both have the payload that the page names."""
    secret, fleet = keys(vectors)
    keyring = Keyring([Publisher("ops", (secret.public,), ("deploy",))], [fleet])
    for name in ("signed", "sealed"):
        message = parse_message(vectors[name].encode())
        assert message.place.assertion.decode() == vectors["assertion"]
        assert vectors["claims"].items() <= message.claims.items()
        assert keyring.body(keyring.verify(message)) == b"hello"


def test_the_messages_of_the_page_are_written(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 (as above)
    """Byte for byte, with the nonce that the page names."""
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(range(size)))
    secret, fleet = keys(vectors)
    for name in ("signed", "sealed"):
        place = parse_message(vectors[name].encode()).place
        raw = Signer(secret, fleet).write(place, vectors["claims"], b"hello", sealed=name == "sealed")
        assert raw.decode() == vectors[name]


def test_the_step_of_the_page_is_written_and_read(vectors: Any) -> None:  # noqa: ANN401 (as above)
    """It admits whom the page says, by the shares that the page says."""
    secret, fleet = keys(vectors)
    claims = vectors["claims"] | vectors["step"]
    place = parse_message(vectors["admit"].encode()).place
    assert Signer(secret, fleet).write(place, claims, b"hello").decode() == vectors["admit"]
    message = parse_envelope(vectors["admit"].encode())
    assert (message.kind, message.rollout) == ("admit", "r1")
    assert message.admission == Admission(429_496_730, ("lb1", "lb2"), "canary")
    for text, number in vectors["shares"].items():
        rollout, node = text.split("/")
        assert share(node, rollout) == number


def test_the_page_names_every_claim() -> None:
    """And no other."""
    tables = PAGE.read_text().partition("## The claims")[2].partition("## Sealed")[0]
    cells = re.findall(r"(?m)^\| (`[a-z0-9`, ]+`) \|", tables)
    assert {name for cell in cells for name in re.findall(r"`([a-z0-9]+)`", cell)} == {*_REQUIRED, *_OPTIONAL}
