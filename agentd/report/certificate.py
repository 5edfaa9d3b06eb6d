"""A certificate with its key: as a server loads it, what stands in it, and how a client here trusts it.

Names and dates come from a handshake in memory, since Python's library reads certificates only there.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.errors import ConfigError

_FIRST: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LARGEST: Final = 1 << 20  # bytes of a file
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which Python has no name
_MOST_STEPS: Final = 10  # of a handshake in memory


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a server shows.

    Attributes:
        context: with which it serves.
        names: the DNS names for which the certificate is valid, in lower case.
        begins: from when on it is valid, in unix seconds.
        expires: until when it is valid, in unix seconds.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]
    begins: float
    expires: float


def read_certificate(cert_file: Path, key_file: Path | None) -> Certificate:
    """Load a certificate and its key.

    Args:
        cert_file: PEM, the server's certificate first, then those that lead to its authority.
        key_file: PEM, without a passphrase; None: `cert_file` has it.

    Raises:
        ConfigError: with the field of the section `status:` that is wrong.
    """
    check_secret("key_file" if key_file else "cert_file", key_file or cert_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    client = trusting(cert_file)
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_passphrase)
        found = _shown(context, client)
    except (OSError, ValueError) as error:
        why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        with_key = f" with status.key_file: {key_file}" if key_file else ""
        raise ConfigError([f"status.cert_file: {cert_file} cannot be used{with_key}: {why}"]) from error
    names = tuple(name.lower() for kind, name in found.get("subjectAltName", ()) if kind == "DNS")
    begins, expires = (ssl.cert_time_to_seconds(found[key]) for key in ("notBefore", "notAfter"))
    return Certificate(context, names, begins, expires)


def trusting(cert_file: Path) -> ssl.SSLContext:
    """What a client on this node trusts: the file's first certificate alone, whatever its date and name.

    Raises:
        ConfigError: there is none in it.
    """
    _check_file("cert_file", cert_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    why = "there is no certificate (PEM) in it"
    try:
        if found := _FIRST.search(cert_file.read_text(encoding="ascii")):
            context.load_verify_locations(cadata=found[0])
            return context
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise ConfigError([f"status.cert_file: {cert_file} cannot be read: {why}"])


def check_secret(field: str, path: Path) -> None:
    """That it is a file which not everybody can read. Raises ConfigError."""
    found = _check_file(field, path)
    if found.st_mode & stat.S_IRWXO:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise ConfigError(
            [f"status.{field}: {path} has the mode {mode}, so that everybody can use it: `chmod 0600 {path}`"]
        )


def _check_file(field: str, path: Path) -> os.stat_result:
    """That reading it waits for nobody, and ends. Raises ConfigError."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError([f"status.{field}: {path} cannot be read: {error.strerror}"]) from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError([f"status.{field}: {path} is not a file"])
    if found.st_size > _LARGEST:
        raise ConfigError([f"status.{field}: {path} is larger than {_LARGEST} bytes"])
    return found


def _refuse_passphrase() -> str:
    raise ValueError("the key has a passphrase; agentd needs one without")


def _shown(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """What a client learns of the server's certificate. Raises SSLError if no handshake comes about."""
    upwards, downwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(downwards, upwards)
    answering = server.wrap_bio(upwards, downwards, server_side=True)
    for _ in range(_MOST_STEPS):
        if all([_step(asking), _step(answering)]):
            break
    return asking.getpeercert() or {}


def _step(side: ssl.SSLObject) -> bool:
    """Go on as far as possible. Returns whether this side has finished."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
