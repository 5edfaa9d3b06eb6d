"""The program that signs, called in this process: real libraries, no network."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agentd.sources import signer

ASKED: dict[str, Any] = {
    "scheme": "s3",
    "bucket": "bucket",
    "key": "a dir/b+c%.txt",
    "endpoint": None,
    "region": "eu-central-1",
    "credentials_file": None,
    "anonymous": False,
}


@pytest.fixture
def sign(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:  # noqa: ANN401 (a function of any keywords)
    """Ask with some fields changed; returns the answer. No credentials are to be found on this machine."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def ask(**fields: object) -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({**ASKED, **fields})))
        assert signer.main() == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return ask


@pytest.fixture
def credentials(tmp_path: Path) -> str:
    """A file of made-up credentials."""
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = AKID\naws_secret_access_key = SECRETKEY\n")
    return str(file)


def test_the_program_limits_itself_and_not_what_the_operator_has_it_start(tmp_path: Path) -> None:
    """A `credential_process` is not under the limits, which would be too narrow for some of them."""
    given = json.dumps({"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "SECRETKEY"})
    process = tmp_path / "credentials"
    process.write_text(
        f"#!/bin/sh\nulimit -v >{tmp_path}/own\n"
        f"grep 'address space' /proc/$PPID/limits >{tmp_path}/program\necho '{given}'\n"
    )
    process.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {process}\n")

    done = subprocess.run(
        [sys.executable, "-I", "-m", "agentd.sources.signer"], input=json.dumps(ASKED).encode(),
        env={"AWS_CONFIG_FILE": str(tmp_path / "config"), "HOME": str(tmp_path)},
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip

    assert "AKID" in json.loads(done.stdout)["url"]
    assert (tmp_path / "own").read_text() == "unlimited\n"
    assert (tmp_path / "program").read_text().split()[3] == str(signer.LIMITS.memory)


def test_s3_is_signed_with_the_credentials_of_the_file(sign: Any, credentials: str) -> None:  # noqa: ANN401 (as above)
    """At the provider's own address in the region; the key itself is not in it."""
    url = sign(credentials_file=credentials)["url"]
    parts = urlsplit(url)
    assert parts.netloc in ("bucket.s3.eu-central-1.amazonaws.com", "bucket.s3.amazonaws.com")
    assert parts.path == "/a%20dir/b%2Bc%25.txt"
    assert parse_qs(parts.query)["X-Amz-Credential"][0].startswith("AKID/")
    assert "SECRETKEY" not in url


def test_an_endpoint_is_asked_by_path(sign: Any, credentials: str) -> None:  # noqa: ANN401 (as above)
    """As the stores that speak like S3 want it."""
    url = sign(credentials_file=credentials, endpoint="http://127.0.0.1:9")["url"]
    assert url.startswith("http://127.0.0.1:9/bucket/a%20dir/")


def test_anonymous_means_unsigned(sign: Any) -> None:  # noqa: ANN401 (as above)
    """For public buckets."""
    assert "?" not in sign(anonymous=True)["url"]


def test_no_credentials_is_an_answer(sign: Any) -> None:  # noqa: ANN401 (as above)
    """They may be there later."""
    answer = sign()
    assert "NoCredentialsError" in answer["error"]
    assert answer["temporary"]


@pytest.mark.parametrize("scheme, module", [("s3", "botocore"), ("gs", "google.auth")])
def test_a_missing_library_is_an_answer(
    sign: Any,  # noqa: ANN401 (as above)
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    module: str,
) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    answer = sign(scheme=scheme)
    assert answer["error"].startswith("install what config/requirements/")
    assert not answer["temporary"]


def test_gs_without_credentials_is_an_answer(sign: Any, tmp_path: Path) -> None:  # noqa: ANN401 (as above)
    """A file that is none."""
    (tmp_path / "bad.json").write_text("{}")
    answer = sign(scheme="gs", credentials_file=str(tmp_path / "bad.json"))
    assert answer["temporary"]
    assert "error" in answer
