"""References over HTTP, served by a real nginx."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Known
from tests.integration.fetching import new_fetcher
from tests.servers.nginx import Nginx
from tests.servers.tls import Certificate

BODY = b"".join(b"192.0.2.%d\n" % (n % 256) for n in range(50_000))

_SERVER = """
location /feeds/ {{ root {files}; }}
location /feeds/always-packed {{ root {files}; gzip_static always; }}
location /feeds/moved {{ return 302 /feeds/list.txt; }}
location /feeds/out {{ return 302 /secret/list.txt; }}
location /feeds/elsewhere {{ return 301 http://127.0.0.2:{port}/feeds/list.txt; }}
location /feeds/file {{ return 302 file:///etc/passwd; }}
location /feeds/loop {{ return 302 /feeds/loop; }}
location /feeds/busy {{ add_header Retry-After 42 always; return 503; }}
location /feeds/forbidden {{ return 403; }}
location /secret/ {{ root {files}; }}
"""


@pytest.fixture
def nginx(new_nginx: Callable[..., Nginx], directory: Path) -> Nginx:
    """An nginx that serves /feeds/ and /secret/."""
    files = directory / "files"
    for name in ("feeds", "secret"):
        (files / name).mkdir(parents=True)
        (files / name / "list.txt").write_bytes(BODY)
    directory.chmod(0o755)
    (files / "feeds" / "list.txt.gz").write_bytes(gzip.compress(BODY))
    (files / "feeds" / "always-packed.gz").write_bytes(gzip.compress(BODY))
    (files / "feeds" / "bomb.gz").write_bytes(gzip.compress(bytes(4 << 20)))
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.configure(server=_SERVER.format(files=files, port=nginx.port), http="etag on;")
    return nginx.start()


def _url(nginx: Nginx, path: str) -> str:
    return f"http://{nginx.address}:{nginx.port}{path}"


def test_a_file_is_fetched_and_verified(nginx: Nginx, directory: Path) -> None:
    """With the digest of its bytes; with another one it is refused."""
    fetch = new_fetcher(directory, _url(nginx, "/feeds"))
    url = _url(nginx, "/feeds/list.txt")
    assert fetch(f"{url} sha256:{hashlib.sha256(BODY).hexdigest()}").read_bytes() == BODY
    with pytest.raises(PermanentError, match="was expected"):
        fetch(f"{url} sha256:{hashlib.sha256(b'other').hexdigest()}")


def test_https_is_checked(nginx: Nginx, directory: Path, certificate: Certificate) -> None:
    """A certificate that nobody vouches for is not trusted."""
    url = f"https://{nginx.address}:{nginx.tls_port}/feeds/list.txt"
    with pytest.raises(TemporaryError, match="certificate is not trusted"):
        new_fetcher(directory, url)(url)
    trusting = new_fetcher(directory, url, ca_file=str(certificate.certificate))
    assert trusting(url).read_bytes() == BODY


def test_tls_to_a_plain_port_is_told(nginx: Nginx, directory: Path) -> None:
    """A common mistake."""
    url = f"https://{nginx.address}:{nginx.port}/feeds/list.txt"
    with pytest.raises(TemporaryError, match="TLS failed"):
        new_fetcher(directory, url)(url)


def test_what_did_not_change_is_not_fetched_again(nginx: Nginx, directory: Path) -> None:
    """Nginx answers 304 to its own ETag, and sends the file once it is another one."""
    file = directory / "files" / "feeds" / "list.txt"
    os.utime(file, (1_700_000_000, 1_700_000_000))  # the time of a file that was just written tells nothing
    fetch, url = new_fetcher(directory, _url(nginx, "/feeds")), _url(nginx, "/feeds/list.txt")
    first = fetch.if_changed(url, Known())
    assert first is not None
    assert first.known.etag
    assert first.known.last_modified
    assert fetch.if_changed(url, first.known) is None
    assert fetch.if_changed(url, Known(last_modified=first.known.last_modified)) is None
    file.write_bytes(b"other")
    second = fetch.if_changed(url, first.known)
    assert second is not None
    assert second.path.read_bytes() == b"other"


@pytest.mark.parametrize("name", ["list.txt.gz", "always-packed"])
def test_what_is_packed_is_unpacked(nginx: Nginx, directory: Path, name: str) -> None:
    """By its name, or because the server packs it whatever was asked for."""
    fetch = new_fetcher(directory, _url(nginx, "/feeds"))
    assert fetch(_url(nginx, f"/feeds/{name}")).read_bytes() == BODY


def test_a_bomb_is_refused(nginx: Nginx, directory: Path) -> None:
    """Four kilobytes that unpack to four megabytes, with a limit of one."""
    fetch = new_fetcher(directory, _url(nginx, "/feeds"), max_expanded="1M")
    with pytest.raises(PermanentError, match="max_expanded"):
        fetch(_url(nginx, "/feeds/bomb.gz"))


def test_a_redirect_within_the_fence_is_followed(nginx: Nginx, directory: Path) -> None:
    """To the same host, below the same prefix."""
    assert new_fetcher(directory, _url(nginx, "/feeds"))(_url(nginx, "/feeds/moved")).read_bytes() == BODY


@pytest.mark.parametrize(
    "path, words",
    [
        ("/feeds/out", "redirects to a place that is not allowed"),
        ("/feeds/elsewhere", "redirects to a place that is not allowed"),
        ("/feeds/file", "not followed"),
        ("/feeds/loop", "more than 5 redirects"),
        ("/feeds/none", "answered 404"),
        ("/feeds/forbidden", "answered 403"),
        ("/secret/list.txt", r"sources\.allow"),
        ("/feeds/../secret/list.txt", "the reference cannot be used"),
        ("/feeds/%2e%2e/secret/list.txt", "the reference cannot be used"),
        ("/feeds/..%2fsecret/list.txt", "the reference cannot be used"),
        ("/feeds//../../secret/list.txt", "the reference cannot be used"),
    ],
)
def test_what_lies_outside_or_is_not_there_is_refused(
    nginx: Nginx, directory: Path, path: str, words: str
) -> None:
    """By agentd, and what nginx would have served there is not asked for."""
    with pytest.raises(PermanentError, match=words):
        new_fetcher(directory, _url(nginx, "/feeds"))(_url(nginx, path))


def test_not_now_is_for_later(nginx: Nginx, directory: Path) -> None:
    """At the time the server names."""
    with pytest.raises(TemporaryError, match="answered 503") as caught:
        new_fetcher(directory, _url(nginx, "/feeds"))(_url(nginx, "/feeds/busy?sig=SECRET"))
    assert caught.value.retry_after == 42.0
    assert "SECRET" not in str(caught.value)


def test_what_is_too_large_is_not_begun(nginx: Nginx, directory: Path) -> None:
    """Its length is announced."""
    fetch = new_fetcher(directory, _url(nginx, "/feeds"), max_size=1000)
    with pytest.raises(PermanentError, match="at most 1000"):
        fetch(_url(nginx, "/feeds/list.txt"))


def test_the_bandwidth_is_limited(nginx: Nginx, directory: Path) -> None:
    """Half a megabyte at a megabyte a second takes half a second."""
    fetch = new_fetcher(directory, _url(nginx, "/feeds"))
    began = time.monotonic()
    fetch(_url(nginx, "/feeds/list.txt"), rate=2.0 * len(BODY))
    assert time.monotonic() - began > 0.4


def test_a_server_that_is_gone_is_for_later(nginx: Nginx, directory: Path) -> None:
    """Stopped, and started again."""
    fetch, url = new_fetcher(directory, _url(nginx, "/feeds")), _url(nginx, "/feeds/list.txt")
    nginx.stop()
    with pytest.raises(TemporaryError, match="nothing is listening there"):
        fetch(url)
    nginx.start()
    assert fetch(url).read_bytes() == BODY
