"""References to object stores: moto's S3 server and an emulator of Google Cloud Storage."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Known
from tests.integration.fetching import new_fetcher
from tests.servers.objects import ObjectStore, gcs_server, s3_server
from tests.servers.rough import RoughServer, head, sends

BODY = b"192.0.2.1\n" * 20_000


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """A store with the bucket `feeds`."""
    with tempfile.TemporaryDirectory(prefix="agentd-") as made:
        store = {"s3": s3_server, "gs": gcs_server}[request.param](Path(made)).start()
        try:
            store.make_bucket("feeds")
            store.put("feeds", "lists/drop.txt", BODY)
            store.put("feeds", "lists/we+ird=(1)%25.txt", BODY)
            yield store
        finally:
            store.stop()


@pytest.fixture
def options(store: ObjectStore, tmp_path: Path) -> dict[str, Any]:
    """The store's part of `sources:`."""
    if store.scheme == "gs":
        return {"gs": {"endpoint": store.endpoint, "anonymous": True}}
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
    return {"s3": {"endpoint": store.endpoint, "region": "us-east-1", "credentials_file": str(credentials)}}


def test_an_object_is_fetched_and_verified(
    store: ObjectStore, options: dict[str, Any], directory: Path
) -> None:
    """Through the same limits as any other payload."""
    prefix = f"{store.scheme}://feeds/lists"
    fetch = new_fetcher(directory, prefix, **options)
    digest = hashlib.sha256(BODY).hexdigest()
    assert fetch(f"{prefix}/drop.txt sha256:{digest}").read_bytes() == BODY
    with pytest.raises(PermanentError, match="at most 1000"):
        fetch(f"{prefix}/drop.txt", max_size=1000)


def test_an_odd_key_is_quoted_as_it_must_be(
    store: ObjectStore, options: dict[str, Any], directory: Path
) -> None:
    """The key is no URL: a percent sign in it is a percent sign."""
    prefix = f"{store.scheme}://feeds/lists"
    assert new_fetcher(directory, prefix, **options)(f"{prefix}/we+ird=(1)%25.txt").read_bytes() == BODY


def test_what_is_not_there_is_refused(store: ObjectStore, options: dict[str, Any], directory: Path) -> None:
    """An object, a bucket; and what may not be named is not asked for."""
    fetch = new_fetcher(directory, f"{store.scheme}://feeds", f"{store.scheme}://none", **options)
    for reference in ("feeds/none", "none/none"):
        with pytest.raises(PermanentError, match="answered 404"):
            fetch(f"{store.scheme}://{reference}")
    with pytest.raises(PermanentError, match=r"sources\.allow"):
        fetch(f"{store.scheme}://secrets/key")


@pytest.mark.parametrize("store", ["s3"], indirect=True)  # the emulator of the other knows no conditions
@pytest.mark.usefixtures("store")
def test_an_object_that_did_not_change_is_not_fetched_again(options: dict[str, Any], directory: Path) -> None:
    """By its ETag."""
    fetch = new_fetcher(directory, "s3://feeds", **options)
    first = fetch.if_changed("s3://feeds/lists/drop.txt", Known())
    assert first is not None
    assert fetch.if_changed("s3://feeds/lists/drop.txt", first.known) is None


def test_without_credentials_it_is_for_later(directory: Path, tmp_path: Path) -> None:
    """They may be mended; the error names the library's own."""
    fetch = new_fetcher(
        directory,
        "s3://feeds",
        s3={"endpoint": "http://127.0.0.1:9", "credentials_file": str(tmp_path / "bad")},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(TemporaryError, match="NoCredentialsError"):
            fetch("s3://feeds/a")


def test_gs_asks_with_a_token(directory: Path, tmp_path: Path) -> None:
    """That it has from where the credentials say."""
    token = json.dumps({"access_token": "SESAME", "expires_in": 3600}).encode()
    tokens = RoughServer(
        [sends(head(200, Content_Type="application/json", Content_Length=len(token)), token)]
    )
    objects = RoughServer([sends(head(200, Content_Length=5), b"plain")])
    account = {
        "type": "service_account",
        "client_email": "agentd@test",
        "private_key": _private_key(),
        "token_uri": f"{tokens.url}/token",
    }
    (tmp_path / "credentials.json").write_text(json.dumps(account))
    store = {"endpoint": objects.url, "credentials_file": str(tmp_path / "credentials.json")}
    try:
        assert new_fetcher(directory, "gs://feeds", gs=store)("gs://feeds/a").read_bytes() == b"plain"
        assert objects.asked[0].headers["authorization"] == "Bearer SESAME"
    finally:
        tokens.stop()
        objects.stop()


def _private_key() -> str:
    argv = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout
