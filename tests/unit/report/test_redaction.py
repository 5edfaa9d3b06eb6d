"""Secrets are told as a length and a digest, whatever their shape; the rest is told as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.digest import digest
from agentd.report.redaction import is_secret, redact
from agentd.trust.keys import FleetKey, SecretKey
from tests.unit.trust.samples import FLEET, OPS

_SECRET_NAMES = st.sampled_from(
    [
        "payload",
        "secret",
        "ticket_key",
        "X-Consul-Token",
        "apiKey",
        "SecretID",
        "password",
        "data",
        "Value",
        "raw",
        "key2",
    ]
)
# Found in no digest and no field's name, so that finding it anywhere is a leak.
_NEEDLE = "NEEDLE~in~the~hay"
_SECRETS = st.builds(lambda before, after: f"{before}{_NEEDLE}{after}", st.text(), st.text())
_PLAIN_NAMES = st.sampled_from(["handler", "paths", "details", "reason"])


def _wrapped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(_PLAIN_NAMES, inner, min_size=1, max_size=3),
        st.tuples(inner),
    )


@given(st.binary())
def test_a_digest_is_the_length_and_eight_hex_digits(data: bytes) -> None:
    """`digest` tells the length and the first 8 hex digits of the SHA-256."""
    assert digest(data) == f"{len(data)} bytes sha256:{hashlib.sha256(data).hexdigest()[:8]}"


@given(name=_SECRET_NAMES, value=st.recursive(_SECRETS, _wrapped, max_leaves=8))
def test_nothing_of_a_secret_field_is_told(name: str, value: object) -> None:
    """A text under a secret name does not come through, however deep the collections around it."""
    told = json.dumps(redact({"outer": [{name: value}]}))

    assert _NEEDLE not in told


@given(st.recursive(st.binary().map(lambda data: data + _NEEDLE.encode()), _wrapped))
def test_bytes_are_never_told(value: object) -> None:
    """Bytes do not come through under any name, nor as the representation that Python gives them."""
    told = json.dumps(redact(value, "anything"))

    assert _NEEDLE not in told


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(), _wrapped)
)
def test_whatever_comes_out_is_json_and_stays_as_it_is(value: object) -> None:
    """The result is strict JSON, and redacting it again changes nothing."""
    told = redact(value, "reason")

    json.dumps(told, allow_nan=False)
    assert redact(told, "reason") == told


@given(_SECRETS)
def test_a_digest_in_a_secret_field_is_kept(secret: str) -> None:
    """A caller who logged a digest, as it should, finds that very digest in the log."""
    told = digest(secret.encode(errors="surrogatepass"))

    assert redact(told, "payload") == told


@pytest.mark.parametrize(
    "name",
    [
        "payload_bytes",
        "token_file",
        "key_path",
        "key_count",
        "payload_sha256",
        "handler",
        "keyboard",
        "query",
        "id",
        "",
        "42",
    ],
)
def test_what_is_about_a_secret_is_none(name: str) -> None:
    """A secret's file, length, count or digest may be told, and so may what only looks alike."""
    assert not is_secret(name)


@pytest.mark.parametrize("value", [7, 2.5, True, None])
def test_numbers_are_told_in_any_field(value: object) -> None:
    """`keys=2` is a count, not a key."""
    assert redact(value, "keys") == value


def test_other_objects_are_told_as_text() -> None:
    """A path is no JSON, its text is."""
    assert redact({"file": Path("/etc/nginx")}) == {"file": "/etc/nginx"}


def test_a_long_text_keeps_both_ends() -> None:
    """The end of a traceback says what happened, so only the middle is cut."""
    told = redact("begin" + "x" * 100_000 + "end", "exception")

    assert len(told) < 9_000
    assert told.startswith("begin")
    assert told.endswith("end")


def test_a_large_collection_is_cut() -> None:
    """A million items do not make one log line."""
    assert len(redact(list(range(1_000_000)))) < 1_000


def test_collections_that_nest_without_end_are_cut() -> None:
    """A value that holds itself is told as far as it is bearable."""
    endless: list[object] = []
    endless.append(endless)

    assert "items" in json.dumps(redact(endless))


def test_the_name_of_a_field_may_be_bytes() -> None:
    """Bytes are not told even as the key of a map."""
    assert list(redact({b"secret": 1})) == [digest(b"secret")]


@pytest.mark.parametrize("key", [OPS, FLEET], ids=["publisher", "fleet"])
def test_a_secret_key_is_told_in_no_text(key: SecretKey | FleetKey) -> None:
    """Whatever the field is called, and whatever stands around it; a public key and an ID are."""
    found = redact({"error": f"cannot use {key.text}: no"})
    assert key.text not in str(found)
    assert str(found["error"]).startswith("cannot use ")
    assert redact(OPS.public.text) == OPS.public.text
    assert redact(key.kid) == key.kid
