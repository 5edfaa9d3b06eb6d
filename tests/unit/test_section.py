"""Sections that are read with and without pydantic."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentd.fleet.options import FleetOptions
from agentd.section import plain
from agentd.watch.options import ConsulOptions

_TEXTS = st.sampled_from(
    [
        "",
        "lb1",
        "a/b",
        "é",
        "\ud800",
        "/run/token",
        "127.0.0.1:8500",
        "https://consul",
        "ftp://x",
        "7s",
        "true",
    ]
)
_VALUES = st.one_of(_TEXTS, st.none(), st.booleans(), st.integers(-1, 70), st.floats(), st.lists(_TEXTS))


def _written(kind: type) -> st.SearchStrategy[object]:
    """What somebody may write as that section."""
    names = st.sampled_from([*kind.__dataclass_fields__, "_typed", "nane", 7])  # type: ignore[attr-defined] # a dataclass
    return st.one_of(st.dictionaries(names, _VALUES, max_size=4), _VALUES)


@pytest.mark.parametrize("kind", [ConsulOptions, FleetOptions])
@given(data=st.data())
def test_what_is_plain_is_what_pydantic_makes_of_it(kind: type, data: st.DataObject) -> None:
    """So a command never takes what the daemon refuses, and never takes it as something else."""
    written = data.draw(_written(kind))
    found = plain(kind, written)
    if found is not None:
        assert found == TypeAdapter(kind).validate_python(written)


@pytest.mark.parametrize(
    "kind,written",
    [
        (ConsulOptions, {}),
        (ConsulOptions, {"address": "https://c:1", "token_file": "/t", "ca_file": "/ca", "stale": False}),
        (ConsulOptions, {"address": "unix:///run/consul.sock", "datacenter": None}),
        (FleetOptions, {"name": "production", "node": "lb1", "datacenter": "dc1", "relay": False}),
    ],
)
def test_what_is_usually_written_is_plain(kind: type, written: dict[str, object]) -> None:
    """Else commands would be slow for no reason."""
    assert plain(kind, written) is not None


@pytest.mark.parametrize(
    "kind,written",
    [
        (ConsulOptions, {"wait": "61s"}),
        (ConsulOptions, {"tls_server_name": "", "address": "https://c"}),
        (ConsulOptions, {"ca_file": "/ca"}),
        (ConsulOptions, {"key_file": "/key", "address": "https://c"}),
        (ConsulOptions, {"address": "http://me:sesame@c"}),
        (FleetOptions, {}),
        (FleetOptions, {"name": "a/b"}),
        (FleetOptions, {"name": "a", "node": ".."}),
        (FleetOptions, None),
    ],
)
def test_what_is_wrong_is_left_to_pydantic(kind: type, written: object) -> None:
    """Which knows everything that is wrong, and where."""
    assert plain(kind, written) is None
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(written)


def test_a_copy_keeps_what_was_typed() -> None:
    """Another datacenter is asked with the same token."""
    typed = ConsulOptions(token_file=Path("/t")).typed(token="5ecret", verify=False, outwait=5.0)
    other = typed.at("dc2")
    assert (other.datacenter, other.token, other.verify, other.outwait) == ("dc2", "5ecret", False, 5.0)
    assert (typed.datacenter, other.at(None).datacenter) == (None, None)
    assert "5ecret" not in repr(other)
