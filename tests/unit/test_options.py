"""Durations, and the frozen models of the YAML file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.options import NginxOptions
from agentd.values import parse_duration

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}


@given(st.dictionaries(st.sampled_from(list(_UNITS)), st.integers(0, 99), min_size=1))
def test_a_duration_is_the_sum_of_its_parts(parts: dict[str, int]) -> None:
    """Units in order, each at most once."""
    text = "".join(f"{parts[unit]}{unit}" for unit in _UNITS if unit in parts)

    assert parse_duration(text) == pytest.approx(sum(n * _UNITS[unit] for unit, n in parts.items()))


@given(st.integers(0, 10**6) | st.floats(0, 1e6))
def test_a_number_is_seconds(number: float) -> None:
    """With or without a fraction."""
    assert parse_duration(number) == number


@pytest.mark.parametrize(
    "text,seconds", [("55s", 55), ("1h30m", 5400), ("250ms", 0.25), ("0", 0), ("1.5h", 5400)]
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    """The forms that the documentation shows."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            "s",
            "-1s",
            "+1s",
            "1 s",
            "1s ",
            "1.s",
            ".5s",
            "1S",
            "1w",
            "1m1h",
            "1s1s",
            "1e3",
            "٣s",
            "0x1",
        ),
        *(-1, -0.5, math.inf, math.nan, 1e300, 10**400, True, False, None, [], {}, b"1s", "9" * 400 + "s"),
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(value)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """A duration is finite and not negative."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


def test_options_are_frozen_and_know_their_fields() -> None:
    """A typo is an error, and nothing changes at run time."""
    with pytest.raises(ValidationError):
        NginxOptions.model_validate({"binery": "nginx"})
    with pytest.raises(ValidationError):
        NginxOptions().binary = "x"  # type: ignore[misc]  # frozen
