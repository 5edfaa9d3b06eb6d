"""Who is answered: by the name of the host, the token, and with which certificate."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.errors import ConfigError
from agentd.options import StatusOptions
from agentd.report.access import Access
from agentd.report.certificate import read_certificate
from agentd.report.request import Request
from tests.servers.equipment import require

TOKEN = "correct-horse-battery-staple"


def make_certificate(directory: Path, names: str, days: int = 30) -> tuple[Path, Path]:
    """A certificate for these names, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    name = ["-subj", "/CN=test", "-addext", f"subjectAltName={names}", "-days", str(days)]
    argv = ["openssl", "req", "-x509", *new_key, *name, "-out", str(cert)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return cert, key


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for lb1.example.org and *.edge.example.org, and its key."""
    require("openssl")
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:LB1.example.org,DNS:*.edge.example.org")


class Files:
    """The files of one section, and the access by them."""

    def __init__(self, directory: Path, made: tuple[Path, Path]) -> None:
        self.cert, self.key, self.token = (directory / name for name in ("cert", "key", "token"))
        self.put(self.cert, made[0].read_text())
        self.put(self.key, made[1].read_text())
        self.put(self.token, f"{TOKEN}\n")
        self.now = 0.0
        options = StatusOptions(cert_file=self.cert, key_file=self.key, token_file=self.token)
        self.access = Access(options, lambda: self.now)

    def put(self, file: Path, text: str) -> None:
        """Replace a file as a program that renews it does."""
        new = file.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.replace(file)

    def ask(self, authorization: str = "", host: str = "127.0.0.1", path: str = "/") -> HTTPStatus:
        """The status of the answer to one request, over a connection of its own."""
        self.now += 1.5
        self.access.context()
        refusal = self.access.refusal(Request("GET", path, host, authorization))
        return refusal.status if refusal else HTTPStatus.OK


@pytest.fixture
def files(tmp_path: Path, made: tuple[Path, Path]) -> Files:
    """Good ones, loaded."""
    found = Files(tmp_path, made)
    found.access.load()
    return found


def _as_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", _basic("", TOKEN), _basic("ops", TOKEN)]
)
def test_the_token_opens(files: Files, authorization: str) -> None:
    """As Prometheus sends it, and as a browser does, whoever the user says to be."""
    assert files.ask(authorization) is HTTPStatus.OK


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        "Basic",
        "Basic %%%",
        _basic(TOKEN, ""),
        "Bearer \xff",
    ],
)
def test_nothing_else_does(files: Files, authorization: str) -> None:
    """The answer asks for the token; what was sent is in no log."""
    with capture_logs() as logged:
        assert files.ask(authorization) is HTTPStatus.UNAUTHORIZED
    assert TOKEN[:-1] not in str(logged)


@given(st.text(st.characters(max_codepoint=255)))
def test_any_other_header_is_refused_in_order(authorization: str) -> None:
    """Whatever its characters."""
    access = Access(StatusOptions())
    access._token = TOKEN.encode()

    refusal = access.refusal(Request("GET", "/", "localhost", authorization))

    assert refusal is not None
    assert refusal.status is HTTPStatus.UNAUTHORIZED


def test_health_needs_no_token(files: Files) -> None:
    """Consul's check has none: its definition can be read by many."""
    assert files.ask(path="/healthz") is HTTPStatus.OK
    assert files.ask(path="/healthz/") is HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    "host",
    [
        "lb1.example.org",
        "LB1.example.org:9521",
        "a.edge.example.org",
        "10.1.2.3:9521",
        "[2001:db8::1]",
        "localhost",
    ],
)
def test_a_node_goes_by_the_names_of_its_certificate(files: Files, host: str) -> None:
    """And by any address."""
    assert files.ask(f"Bearer {TOKEN}", host) is HTTPStatus.OK


@pytest.mark.parametrize(
    "host", ["rebound.example", "example.org", "a.b.edge.example.org", "edge.example.org", "", "1"]
)
def test_it_goes_by_no_other_name(files: Files, host: str) -> None:
    """A page elsewhere, of whatever name, must not read the answers; nor learn whether a token is right."""
    assert files.ask(f"Bearer {TOKEN}", host) is HTTPStatus.MISDIRECTED_REQUEST


def test_wrong_tokens_are_logged_once_a_minute(files: Files) -> None:
    """With their number, so that a log does not fill up."""
    with capture_logs() as logged:
        for _ in range(100):
            files.ask("Bearer wrong")

    assert [line["count"] for line in logged if line["event"] == "status.wrong_token"] == [1, 40, 40]


def test_a_renewed_certificate_is_used_without_a_restart(files: Files, tmp_path: Path) -> None:
    """With its names; so is a new token."""
    (tmp_path / "new").mkdir()
    cert, key = make_certificate(tmp_path / "new", "DNS:renewed.example.org")
    before = files.access.context()
    files.put(files.cert, cert.read_text())
    assert files.ask(f"Bearer {TOKEN}", "lb1.example.org") is HTTPStatus.OK  # its key is not there yet
    files.put(files.key, key.read_text())
    files.put(files.token, "another-token-of-length")

    assert files.ask(f"Bearer {TOKEN}", "renewed.example.org") is HTTPStatus.UNAUTHORIZED
    assert files.ask("Bearer another-token-of-length", "renewed.example.org") is HTTPStatus.OK
    assert files.access.context() is not before
    assert files.access.trouble == ""


def test_a_file_that_cannot_be_used_leaves_the_one_before(files: Files) -> None:
    """And is told, in the log once, until there is a good one."""
    files.put(files.token, "short")
    with capture_logs() as logged:
        assert {files.ask(f"Bearer {TOKEN}") for _ in range(3)} == {HTTPStatus.OK}
    assert len(logged) == 1
    assert "status.token_file" in files.access.trouble

    files.put(files.token, TOKEN)
    assert files.ask(f"Bearer {TOKEN}") is HTTPStatus.OK
    assert files.access.trouble == ""


@pytest.mark.parametrize(
    "field,spoil,said",
    [
        ("cert", lambda file: file.write_text("nothing"), "status.cert_file: .* no certificate"),
        ("cert", lambda file: file.unlink(), "status.cert_file: .* cannot be read: No such file"),
        ("cert", _as_fifo, "status.cert_file: .* is not a file"),
        ("cert", lambda file: os.truncate(file, 1 << 40), "status.cert_file: .* is larger than"),
        ("key", lambda file: file.write_text("nothing"), "status.cert_file: .* with status.key_file"),
        ("key", lambda file: file.chmod(0o604), "status.key_file: .* mode 0604.*chmod 0600"),
        ("key", _as_fifo, "status.key_file: .* is not a file"),
        ("token", lambda file: file.write_text("short"), "status.token_file: .* 16 to 256.*openssl rand"),
        (
            "token",
            lambda file: file.write_text("with spaces in the middle"),
            "status.token_file: .*printable",
        ),
        ("token", lambda file: file.chmod(0o644), "status.token_file: .* mode 0644"),
        ("token", lambda file: file.unlink(), "status.token_file: .* cannot be read: No such file"),
    ],
)
def test_a_start_with_a_bad_file_is_refused(
    tmp_path: Path, made: tuple[Path, Path], field: str, spoil: object, said: str
) -> None:
    """With the field, and what to do."""
    files = Files(tmp_path, made)
    assert callable(spoil)
    spoil(getattr(files, field))

    with pytest.raises(ConfigError, match=said):
        files.access.load()


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path, made: tuple[Path, Path]) -> None:
    """Nobody is there to type it, and nothing is asked on a terminal."""
    locked = tmp_path / "locked.pem"
    argv = ["openssl", "ec", "-in", str(made[1]), "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    locked.chmod(0o600)

    with pytest.raises(ConfigError, match="the key has a passphrase"):
        read_certificate(made[0], locked)


def test_what_stands_in_a_certificate_is_known(made: tuple[Path, Path]) -> None:
    """Its names, and from when until when it is valid; it serves TLS 1.2 and later."""
    found = read_certificate(*made)

    assert found.names == ("lb1.example.org", "*.edge.example.org")
    assert 29 * 86400 < found.expires - found.begins < 31 * 86400
    assert found.context.minimum_version == ssl.TLSVersion.TLSv1_2
