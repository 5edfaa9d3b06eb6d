"""References to payloads: "SCHEME:... [sha256:HEX]", parsed and normalised.

It owns the grammar, and refuses every spelling that two programs could read differently (dot segments, empty
segments, backslashes, encoded slashes, user names): what passes can be compared segment by segment. Nothing
is opened or requested here.

    kv:PATH    file:/PATH    http(s)://HOST[:PORT]/PATH[?QUERY]    s3://BUCKET/KEY    gs://BUCKET/KEY
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

SCHEMES: Final = ("kv", "file", "http", "https", "s3", "gs")
LONGEST: Final = 4096
"""Characters of a reference, the digest included."""

_PORTS: Final = {"http": 80, "https": 443}
_LAST_PORT: Final = 65535
_PRINTABLE: Final = re.compile(r"[!-~]+")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9]*):(.*)", re.IGNORECASE)
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})|%")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_UNSAFE_IN_URL: Final = re.compile(r'[\\"<>^`{|}#]')
_HEX_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
STRONG: Final = frozenset({"sha256", "sha384", "sha512"})
"""The digests that a reference may name; a manifest may name the weaker ones."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest: `name` as hashlib knows it, `hex` in lower case."""

    name: str
    hex: str

    def __str__(self) -> str:
        return f"{self.name}:{self.hex[:8]}..."


@dataclass(frozen=True, slots=True)
class Location:
    """Where a payload is, normalised.

    Attributes:
        scheme: one of `SCHEMES`.
        authority: "host" or "host:port" (if not the scheme's own); s3, gs: the bucket; else "".
        path: http(s): begins with a slash, percent-encoded; file: begins with a slash; kv, s3, gs: does not.
        query: of http(s), as given; it may be a signature, so it is never shown.
    """

    scheme: str
    authority: str
    path: str
    query: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """All of it, including secrets."""
        return f"{self}?{self.query}" if self.query else str(self)

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments; one "" at the end if it ends in a slash."""
        path = self.path.removeprefix("/")
        return tuple(path.split("/")) if path else ()

    @property
    def name(self) -> str:
        """The last segment, or "" if there is none."""
        return self.segments[-1] if self.segments else ""

    def __str__(self) -> str:
        """What may be shown: all but the query."""
        if self.scheme in ("kv", "file"):
            return f"{self.scheme}:{self.path}"
        separator = "/" if self.scheme in ("s3", "gs") else ""
        return f"{self.scheme}://{self.authority}{separator}{self.path}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A location, and the digest that its bytes must have, if known."""

    location: Location
    digest: Digest | None = None


def parse_reference(text: str) -> Reference:
    """Parse "SCHEME:... [sha256:HEX]".

    Raises:
        ValueError: it is not one; the message says why, and never quotes a query.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a reference has at most {LONGEST} characters, but this has {len(text)}")
    where, _, digest = text.strip(" ").partition(" ")
    location = parse_location(where)
    if not location.name and location.scheme not in _PORTS:
        raise ValueError(f"{location} names a directory, not a file")
    if not digest:
        return Reference(location)
    parsed = parse_digest(digest.strip(" "))
    if parsed.name not in STRONG:
        raise ValueError(f"{parsed.name} can be forged: use sha256")
    return Reference(location, parsed)


def parse_digest(text: str) -> Digest:
    """Parse "sha256:HEX"; md5, sha1, sha384 and sha512 are accepted too.

    Raises:
        ValueError: it is not one.
    """
    name, _, digits = text.lower().partition(":")
    length = _HEX_DIGITS.get(name)
    if length is None or len(digits) != length or not re.fullmatch("[0-9a-f]+", digits):
        raise ValueError("a digest is sha256: and 64 hexadecimal digits")
    return Digest(name, digits)


def parse_location(text: str) -> Location:
    """Parse a location, or a prefix of locations.

    Raises:
        ValueError: it is not one, or other programs may read its spelling differently.
    """
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("a reference has only printable ASCII characters, and no spaces")
    found = _SCHEME.fullmatch(text)
    scheme = found[1].lower() if found else ""
    if not found or scheme not in SCHEMES:
        raise ValueError(f"a reference begins with one of {', '.join(f'{name}:' for name in SCHEMES)}")
    rest = found[2]
    if scheme == "kv":
        return Location(scheme, "", _checked(rest))
    if scheme == "file":
        return Location(scheme, "", _file_path(rest))
    if not rest.startswith("//"):
        raise ValueError(f"{scheme}: must be followed by //")
    return _url(scheme, rest[2:]) if scheme in _PORTS else _object(scheme, rest[2:])


def _file_path(rest: str) -> str:
    path = rest[2:] if rest.startswith("///") else rest
    if not path.startswith("/"):
        raise ValueError("file: must be followed by an absolute path, as in file:/srv/lists/drop.txt")
    return "/" + _checked(path[1:])


def _object(scheme: str, rest: str) -> Location:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ValueError(f"{scheme}:// must be followed by the name of a bucket")
    return Location(scheme, bucket, _checked(key))


def _url(scheme: str, rest: str) -> Location:
    where, mark, query = rest.partition("?")
    authority, _, path = where.partition("/")
    if _UNSAFE_IN_URL.search(where) or "#" in query:
        raise ValueError("the URL has characters that must be percent-encoded, or a fragment")
    normal = "/" + _checked(_ENCODED.sub(_decoded, path))
    return Location(scheme, _authority(scheme, authority), normal, query if mark else "")


def _authority(scheme: str, text: str) -> str:
    """Host and port, normalised: lower case, without the scheme's default port."""
    if "@" in text:
        raise ValueError("a URL must not contain a user name or password")
    host, port = text.lower(), ""
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        host = f"[{_ipv6(address if bracket else '')}]"
    else:
        host, colon, port = host.partition(":")
        port = colon + port
        if not _HOST.fullmatch(host) or ".." in host:
            raise ValueError(f"{scheme}:// must be followed by a host name or an address")
    if not port:
        return host
    number = port.removeprefix(":")
    if not (port.startswith(":") and re.fullmatch("[0-9]{1,5}", number) and 0 < int(number) <= _LAST_PORT):
        raise ValueError("the port must be a number from 1 to 65535")
    return host if int(number) == _PORTS[scheme] else f"{host}:{int(number)}"


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("[ must be followed by an IPv6 address and ]") from None
    if address.scope_id:
        raise ValueError("an IPv6 address must not have a zone")
    return address.compressed


def _decoded(found: re.Match[str]) -> str:
    """A percent-encoded character, normalised; those that change a path's meaning are refused."""
    if not found[1]:
        raise ValueError("a % in a URL must be followed by two hexadecimal digits")
    character = chr(int(found[1], 16))
    if _UNRESERVED.fullmatch(character):
        return character
    if character in "/\\%" or character < " " or character == "\x7f":
        raise ValueError("the URL hides a slash, a backslash, a percent sign or a control character")
    return f"%{found[1].upper()}"


def _checked(path: str) -> str:
    """The path, if every segment is literal; the last one may be empty."""
    if "\\" in path:
        raise ValueError("a path must not contain a backslash")
    *directories, last = path.split("/")
    if "" in directories:
        raise ValueError("a path must not have an empty segment (//, or a leading slash)")
    for segment in (*directories, last):
        # Servers that strip a segment's parameters read "..;x" as "..".
        if segment.partition(";")[0] in (".", ".."):
            raise ValueError("a path must not have a . or .. segment")
    return path
