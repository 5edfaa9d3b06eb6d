"""Who is answered by the listener: the certificate that it shows, the names it goes by, the token it wants.

Owns the files of the section `status:`, which are read again when they have changed. One that cannot be used
any more leaves in force what was read before, and is told.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import time
from collections.abc import Callable
from hmac import compare_digest
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from agentd.errors import ConfigError
from agentd.options import StatusOptions
from agentd.report.request import Request, Response, host_of, is_address, is_loopback_name

if TYPE_CHECKING:
    from agentd.report.certificate import Certificate

OPEN: Final = frozenset({"/healthz"})
"""What is answered without the token, for Consul's health check: yes or no, and nothing else."""
_LOOK: Final = 1.0  # seconds between two looks at the files
_SELDOM: Final = 60.0  # seconds between two log lines about wrong tokens
_SHORTEST: Final = 16  # characters of a token: too many to be guessed
_LARGEST: Final = 256
_BASIC: Final = 'WWW-Authenticate: Basic realm="agentd: any user name, and the token as password"'
_log = structlog.get_logger()
Seen = tuple[tuple[int, ...] | None, ...]


class Access:
    """Decides about requests. One thread calls it, apart from `trouble`.

    Args:
        options: the section; without files everybody on this node is answered, and nobody else can connect.
        timer: monotonic seconds.

    Attributes:
        trouble: why a file that has changed is not in use; "" if all are.
    """

    def __init__(self, options: StatusOptions, timer: Callable[[], float] = time.monotonic) -> None:
        self.trouble = ""
        self._options = options
        self._timer = timer
        self._certificate: Certificate | None = None
        self._token = b""
        self._seen: Seen = ()
        self._look_at = 0.0
        self._wrong = 0
        self._say_at = float("-inf")

    def load(self) -> None:
        """Read the files.

        Raises:
            ConfigError: one cannot be used.
        """
        self._seen = self._look()
        certificate, token = None, b""
        if self._options.cert_file:
            from agentd.report.certificate import read_certificate  # noqa: PLC0415 (only with TLS)

            certificate = read_certificate(self._options.cert_file, self._options.key_file)
        if self._options.token_file:
            token = read_token(self._options.token_file)
        self._certificate, self._token = certificate, token

    def context(self) -> ssl.SSLContext | None:
        """With what a new connection is secured; None if it is not. Looks whether the files have changed."""
        if (self._options.cert_file or self._options.token_file) and self._timer() >= self._look_at:
            self._look_at = self._timer() + _LOOK
            self._refresh()
        return self._certificate.context if self._certificate else None

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not answered; None if it is."""
        if not self._goes_by(request.host):
            # A page whose name was made to resolve to this address must not read what only this node may.
            return _refused(HTTPStatus.MISDIRECTED_REQUEST)
        if not self._token or request.path in OPEN or self._is_right(request.authorization):
            return None
        if request.authorization:
            self._count_wrong()
        return _refused(HTTPStatus.UNAUTHORIZED, _BASIC)

    def _goes_by(self, host: str) -> bool:
        if self._certificate is None:
            return is_loopback_name(host)
        name = host_of(host)
        return (
            is_loopback_name(host)
            or is_address(name)
            or any(
                name == one or (one.startswith("*.") and name.partition(".")[2] == one[2:])
                for one in self._certificate.names
            )
        )

    def _is_right(self, authorization: str) -> bool:
        """Whether it has the token: `Bearer TOKEN`, or as the password of a browser's Basic."""
        scheme, _, value = authorization.partition(" ")
        given = value.strip().encode("latin-1")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return compare_digest(given, self._token)

    def _count_wrong(self) -> None:
        self._wrong += 1
        if self._timer() >= self._say_at:
            _log.warning("status.wrong_token", count=self._wrong)
            self._say_at, self._wrong = self._timer() + _SELDOM, 0

    # ------------------------------------------------------------------ the files

    def _refresh(self) -> None:
        if self._look() == self._seen:
            return
        try:
            self.load()
        except ConfigError as error:
            self.trouble = f"{error.problems[0]}; what was read before is in use"
            _log.error("status.files_refused", problems=error.problems)
        else:
            self.trouble = ""
            _log.info("status.files_loaded")

    def _look(self) -> Seen:
        return tuple(map(_stamp, (self._options.cert_file, self._options.key_file, self._options.token_file)))


def read_token(path: Path) -> bytes:
    """The token in a file.

    Raises:
        ConfigError: it cannot be read, everybody can read it, or it is none.
    """
    from agentd.report.certificate import check_secret  # noqa: PLC0415 (only with a token)

    check_secret("token_file", path)
    try:
        with path.open("rb") as file:
            token = file.read(_LARGEST + 1).strip()
    except OSError as error:
        raise ConfigError([f"status.token_file: {path} cannot be read: {error.strerror}"]) from error
    if not (_SHORTEST <= len(token) <= _LARGEST and re.fullmatch(rb"[!-~]+", token)):
        wanted = f"{_SHORTEST} to {_LARGEST} printable characters without spaces"
        advice = "`openssl rand -hex 32` makes some"
        raise ConfigError([f"status.token_file: {path} must have {wanted}: {advice}"])
    return token


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    """What differs once a file was written or replaced."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _refused(status: HTTPStatus, *headers: str) -> Response:
    return Response(status, f"{status.phrase}\n".encode(), "text/plain", headers)
