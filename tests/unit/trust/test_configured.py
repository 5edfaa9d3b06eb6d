"""From the section `trust:` and the files that it names to messages that are believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentd.errors import BadKey, Untrusted
from agentd.trust.configured import make_keyring, read_fleet_keys, read_signer
from agentd.trust.key_files import write_key
from agentd.trust.keys import new_fleet_key
from agentd.trust.message import parse_message
from agentd.trust.options import TrustOptions
from tests.unit.trust.samples import CLAIMS, FLEET, OPS, OTHER, PLACE, body_of, written


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with the sample's keys."""
    directory = tmp_path / "keys"
    write_key(directory / "ops.key", OPS)
    write_key(directory / "fleet.key", FLEET)
    return directory


def options(**more: Any) -> TrustOptions:  # noqa: ANN401 (any field)
    """A section with one publisher."""
    publishers = {"ops": {"key": OPS.public.text, "may": ["deploy", "tickets-*"]}}
    return TrustOptions.model_validate({"publishers": publishers, **more})


def test_what_is_configured_writes_and_reads(keys: Path) -> None:
    """A publisher's host, and a node; the first fleet key seals."""
    write_key(keys / "old.key", new_fleet_key())
    both = [str(keys / "fleet.key"), str(keys / "old.key")]
    found = options(seal="tickets-*", fleet_keys=both, signing_key=str(keys / "ops.key"))
    signer = read_signer(found)
    assert signer is not None
    raw = signer.write(PLACE, CLAIMS, b"hello", sealed=True)
    keyring = make_keyring(found, read_fleet_keys(found))
    keyring.check()
    assert parse_message(raw).fleet_kid == FLEET.kid
    assert body_of(raw, keyring) == b"hello"
    with pytest.raises(Untrusted):
        body_of(written(key=OTHER), keyring)


def test_a_host_without_a_signing_key_does_not_sign() -> None:
    """Which is every node that does not publish."""
    assert read_signer(options()) is None
    assert read_fleet_keys(options()) == ()


@pytest.mark.parametrize(
    "field,files,problem",
    [
        ("fleet_keys", ["ops.key"], "key of a publisher"),
        ("fleet_keys", ["fleet.key", "copy.key"], "same key"),
        ("fleet_keys", ["missing.key"], "cannot be read"),
        ("signing_key", "fleet.key", "key of a fleet"),
        ("signing_key", "missing.key", "cannot be read"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused(
    keys: Path, field: str, files: str | list[str], problem: str
) -> None:
    """With the name of its file."""
    write_key(keys / "copy.key", FLEET)
    places = [str(keys / one) for one in files] if isinstance(files, list) else str(keys / files)
    found = options(**{field: places})
    with pytest.raises(BadKey, match=problem) as caught:
        read_signer(found) if field == "signing_key" else read_fleet_keys(found)
    assert str(keys) in str(caught.value)


def test_names_are_sealed_by_pattern(keys: Path) -> None:
    """As in `may`."""
    found = options(seal=["tickets-*", "deploy"], fleet_keys=[str(keys / "fleet.key")])
    assert [name for name in ("tickets-a", "deploy", "tickets", "deploys") if found.seals(name)] == [
        "tickets-a",
        "deploy",
    ]
