"""References: one spelling for each location, and none that could be read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.sources.reference import (
    SCHEMES,
    Digest,
    Location,
    Reference,
    parse_digest,
    parse_location,
    parse_reference,
)

SHA256 = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "text, location",
    [
        ("kv:lists/drop", Location("kv", "", "lists/drop")),
        ("file:/srv/drop.txt", Location("file", "", "/srv/drop.txt")),
        ("file:///srv/drop.txt", Location("file", "", "/srv/drop.txt")),
        ("http://Example.ORG:80/a", Location("http", "example.org", "/a")),
        ("HTTPS://example.org:443/a", Location("https", "example.org", "/a")),
        ("https://example.org:8443/a", Location("https", "example.org:8443", "/a")),
        ("https://example.org", Location("https", "example.org", "/")),
        ("http://[2001:DB8:0::1]:8080/a", Location("http", "[2001:db8::1]:8080", "/a")),
        ("https://h/%7euser/%41%2b", Location("https", "h", "/~user/A%2B")),
        ("https://h/a?sig=x%2f..", Location("https", "h", "/a", "sig=x%2f..")),
        ("s3://bucket.one/a/b=c", Location("s3", "bucket.one", "a/b=c")),
        ("gs://bucket_2/a%2fb", Location("gs", "bucket_2", "a%2fb")),
    ],
)
def test_a_location_has_one_spelling(text: str, location: Location) -> None:
    """Case, default ports, and encodings that mean nothing are gone."""
    assert parse_location(text) == location


@pytest.mark.parametrize(
    "text",
    [
        *("", "/etc/passwd", "ftp://h/a", "data:,x", "http:/h/a", "http:h", "https:///a", "kv", "s3:b/k"),
        *("kv:/a", "kv:a//b", "kv:a/../b", "kv:a/./b", "kv:a\\b", "kv:a b", "kv:ä"),
        *("file:a", "file://host/a", "file:/a/../b", "file:/a/..", "file://a", "file:/a//b"),
        *("http://user@h/a", "http://user:pw@h/a", "http://h:0/a", "http://h:99999/a", "http://h:/a"),
        *("http://h:8o/a", "http://h\\@x/a", "http://h./a", "http://-h/a", "http://h..x/a", "http://[::1/a"),
        *("http://[fe80::1%25eth0]/a", "http://[::1]x/a", "http://h:+80/a", "http://h#f/a", "http://h/a#f"),
        *("http://h/a/../b", "http://h/a/%2e%2e/b", "http://h/a/%2E./b", "http://h/..;x/b", "http://h/.;/b"),
        *(
            "http://h//a",
            "http://h/a//b",
            "http://h/a%2fb",
            "http://h/a%5cb",
            "http://h/a\\b",
            "http://h/%00",
        ),
        *(
            "http://h/%252e%252e/a",
            "http://h/%zz",
            "http://h/%",
            "http://h/a%0d%0aX:y",
            'http://h/"',
            "http://h/{a}",
        ),
        *(
            "s3://B/k",
            "s3://a/k",
            "s3://b..c/k",
            "s3:///k",
            "s3://bucket/a/../k",
            "s3://bucket//k",
            "gs://b c/k",
        ),
        *("https://h/a\n", "https://h/a\tb", "https://h/a\x00", "https://h/\u2025/a"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str) -> None:
    """Dot segments in any disguise, empty segments, backslashes, user names, odd ports."""
    with pytest.raises(ValueError, match=r"."):
        parse_location(text)


def test_a_reference_has_a_digest_or_none() -> None:
    """The digest follows after a space, in either case."""
    assert parse_reference(f"kv:a {SHA256.upper()}") == Reference(
        Location("kv", "", "a"), Digest("sha256", "ab" * 32)
    )
    assert parse_reference(" kv:a ") == Reference(Location("kv", "", "a"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "kv:a sha256:abc",
            "kv:a sha256",
            "kv:a crc32:12345678",
            f"kv:a {SHA256} {SHA256}",
            f"kv:a {SHA256}0",
        ),
        *(
            "kv:a sha256:" + "٣" * 64,
            "kv:a md5:" + "a" * 32,
            "kv:",
            "kv:a/",
            "file:/",
            "s3://bucket",
            "gs://bucket/a/",
        ),
        *("kv:" + "a" * 5000, "kv:a " + "sha256:" + "g" * 64),
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """A digest that is none or can be forged, a directory, an endless text."""
    with pytest.raises(ValueError, match=r"."):
        parse_reference(text)


def test_a_manifest_may_name_an_old_digest() -> None:
    """`parse_digest` knows md5; `parse_reference` does not take it."""
    assert parse_digest("MD5:" + "0" * 32) == Digest("md5", "0" * 32)


@pytest.mark.parametrize(
    "text",
    ["https://h/a?sig=SECRET", "https://h/a?SECRET#f", "https://SECRET@h/a", "https://h/a/../SECRET?SECRET"],
)
def test_what_may_be_secret_is_never_told(text: str) -> None:
    """Neither a location nor the error about one quotes a query or a user name."""
    try:
        told = f"{parse_location(text)} {parse_location(text)!r}"
    except ValueError as error:
        told = str(error)
    assert "SECRET" not in told


@given(st.one_of(st.text(), st.tuples(st.sampled_from(SCHEMES), st.text()).map(lambda t: f"{t[0]}:{t[1]}")))
def test_any_text_is_a_location_or_a_valueerror(text: str) -> None:
    """Nothing else is raised, and what is accepted reads back as itself."""
    try:
        location = parse_location(text)
    except ValueError:
        return
    assert parse_location(location.url) == location
    assert ".." not in location.segments
    assert "" not in location.segments[:-1]
