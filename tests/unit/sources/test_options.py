"""The `sources:` section."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentd.sources.options import SourceOptions
from agentd.values import parse_size


@pytest.mark.parametrize(
    "text, size", [(0, 0), ("17", 17), ("512k", 512 * 1024), ("100 MB", 100 << 20), ("2GiB", 2 << 30)]
)
def test_a_size_has_a_unit(text: object, size: int) -> None:
    """The units are powers of 1,024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [-1, True, 1.5, "", "1.5M", "M", "1T", "-1", "٣", None])
def test_what_is_no_size_is_refused(text: object) -> None:
    """Neither fractions nor negative numbers."""
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


def test_nothing_is_allowed_by_default() -> None:
    """Whoever fires an event chooses the address, so the allowlist is closed until it is opened."""
    assert SourceOptions().allow == ()


@pytest.mark.parametrize(
    "prefix", ["https://h/a?b", "https://h/a?", "/srv", "https://h/../a", "https://u@h/"]
)
def test_a_prefix_is_a_location_without_query(prefix: str) -> None:
    """A prefix that cannot be compared is an error of the configuration."""
    with pytest.raises(ValidationError):
        SourceOptions(allow=(prefix,))


@pytest.mark.parametrize("endpoint", ["h:80", "https://user@h", "https://h/path", "ftp://h"])
def test_an_endpoint_is_a_bare_url(endpoint: str) -> None:
    """Credentials do not belong into the configuration."""
    with pytest.raises(ValidationError):
        SourceOptions.model_validate({"s3": {"endpoint": endpoint}})
