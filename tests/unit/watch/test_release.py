"""What a release of Consul takes."""

from __future__ import annotations

import pytest

from agentd.watch.release import changes, limits_body, too_large


@pytest.mark.parametrize(
    "version,limits",
    [
        ("1.8.7", False),
        ("1.21.6", False),
        ("1.21.5+ent", False),
        ("1.21.6+ent", True),
        ("1.20.8+ent", True),
        ("1.19.9+ent", False),
        ("1.18.12+ent", True),
        ("1.22.0", True),
        ("1.22.0-rc1", True),
        ("2.1.0+ent.fips1403", True),
        ("", None),
        ("unknown", None),
    ],
)
def test_who_limits_the_body_of_an_event(version: str, limits: bool | None) -> None:  # noqa: FBT001 (a case)
    """Those that fix CVE-2025-11375; Enterprise had it in older lines as well."""
    assert limits_body(version) is limits


@pytest.mark.parametrize(
    "name,size,version,why",
    [
        ("block", 100, "1.22.0", ""),
        ("block", 101, "1.22.0", "Consul 1.22.0 takes at most 100"),
        ("block", 101, "1.8.7", ""),
        ("block", 101, "", ""),
        ("x", 414, "1.8.7", ""),
        ("x", 415, "1.8.7", "at least 513 bytes"),
        ("x" * 100, 214, "1.8.7", ""),
        ("x" * 100, 300, "", "Consul's limit is 512"),
    ],
)
def test_what_is_too_large(name: str, size: int, version: str, why: str) -> None:
    """The limit of 512 bytes counts the name twice, as Consul 1.8.7 was seen to do."""
    told = too_large(name, size, version)

    assert why in told
    assert bool(told) is bool(why)


def test_what_a_release_changes() -> None:
    """Nothing for an old one."""
    assert changes("1.8.7") == []
    assert len(changes("1.14.0")) == 1
    assert any("100 bytes" in one for one in changes("2.1.0"))
