"""The allowlist: nothing outside the prefixes passes, however it is spelled and however a server reads it."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import PermanentError
from agentd.sources.allowlist import Allowlist
from agentd.sources.reference import parse_location

PREFIX = ("feeds", "v1")
_SEGMENTS = st.sampled_from(
    [
        *(
            "feeds",
            "v1",
            "v1x",
            "feed",
            "x",
            "",
            ".",
            "..",
            "...",
            "%2e",
            "%2E%2e",
            ".%2e",
            "..;a",
            "%2e%2e;a",
        ),
        *(
            "%2f",
            "..%2f..",
            "%5c",
            "..\\..",
            "%252e%252e",
            "%25",
            "FEEDS",
            "f%65eds",
            "%76%31",
            "a b",
            "%00",
            "?",
            "#",
        ),
    ]
)
_AUTHORITIES = st.sampled_from(
    [
        *(
            "h",
            "H",
            "h:443",
            "h:80",
            "h:8443",
            "h.",
            "hh",
            "h.evil",
            "evil",
            "h@evil",
            "evil@h",
            "h:443@evil",
        ),
        *("h%2eevil", "h\\.evil", "[::1]", "h:0443", "evil#h", "evil?h", "", "h:"),
    ]
)


def _laxest(path: str) -> list[str] | None:
    """How the laxest server reads a path, decoded until nothing is left to decode. None: it leads out."""
    for _ in range(4):
        path = unquote(path)
    found: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        name = part.partition(";")[0]
        if name == "..":
            if not found:
                return None
            found.pop()
        elif name not in ("", "."):
            found.append(part)
    return found


@given(authority=_AUTHORITIES, segments=st.lists(_SEGMENTS, max_size=6), below=st.booleans())
def test_nothing_passes_that_a_lax_server_reads_as_lying_elsewhere(
    authority: str, segments: list[str], *, below: bool
) -> None:
    """What passes is at the allowed host, and below the prefix for whoever reads it."""
    path = "/".join([*(PREFIX if below else ()), *segments])
    try:
        location = parse_location(f"https://{authority}/{path}")
        Allowlist.of(["https://h/feeds/v1"]).check(location)
    except (ValueError, PermanentError):
        return
    assert authority.lower() in ("h", "h:443", "h:0443")
    read = _laxest(location.path)
    assert read is not None
    assert tuple(read[:2]) == PREFIX


@given(st.lists(st.from_regex(r"[a-z0-9._~-]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_whatever_lies_below_passes(segments: list[str]) -> None:
    """The allowlist is no wall: plain names below the prefix pass in every scheme."""
    tail = "/".join(f"n{segment}" for segment in segments)
    for prefix in ("https://h/feeds", "kv:feeds", "file:/feeds", "s3://bucket/feeds", "gs://bucket/feeds"):
        assert Allowlist.of([prefix]).check(parse_location(f"{prefix}/{tail}"))


@pytest.mark.parametrize(
    "prefix, location, passes",
    [
        ("https://h/a", "https://h/a", True),
        ("https://h/a", "https://h/a/b?q", True),
        ("https://h/a", "https://h/ab", False),
        ("https://h/a/", "https://h/a/b", True),
        ("https://h/a/", "https://h/a", False),
        ("https://h/a/", "https://h/a/", False),
        ("https://h", "https://h/anything", True),
        ("https://h", "http://h/anything", False),
        ("https://h:8443", "https://h/a", False),
        ("kv:lists", "kv:lists/a", True),
        ("kv:lists", "kv:listsx", False),
        ("kv:", "kv:anything", True),
        ("file:/srv", "file:/srv/a", True),
        ("file:/srv", "file:/srvx", False),
        ("s3://bucket", "s3://bucket/k", True),
        ("s3://bucket", "gs://bucket/k", False),
        ("s3://bucket", "s3://bucket2/k", False),
        ("s3://bucket/a", "s3://bucket/A", False),
    ],
)
def test_prefixes_match_whole_segments(prefix: str, location: str, *, passes: bool) -> None:
    """A prefix is no beginning of a string."""
    allowlist = Allowlist.of([prefix])
    if passes:
        assert allowlist.check(parse_location(location))
    else:
        with pytest.raises(PermanentError, match=r"sources\.allow"):
            allowlist.check(parse_location(location))


def test_an_empty_allowlist_lets_nothing_pass() -> None:
    """The default."""
    with pytest.raises(PermanentError):
        Allowlist.of([]).check(parse_location("kv:a"))
