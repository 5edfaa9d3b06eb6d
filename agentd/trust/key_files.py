"""Files of keys: one key each, which nobody but their owner may read, and nobody else replace.

A key never stands in an argument, a log or an error. `credential:NAME` is a file that systemd has put into
the directory of the service's credentials.

Source: https://systemd.io/CREDENTIALS
"""

from __future__ import annotations

import os
import re
import resource
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.errors import BadKey
from agentd.trust.keys import FleetKey, SecretKey, parse_secret

CREDENTIAL: Final = "credential:"
"""Before the name of a systemd credential, instead of a path."""

_LARGEST: Final = 1024
_CREDENTIAL: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}"
_OTHERS: Final = 0o077
# systemd lets the service's user read by an access list, the mask of which shows as the group's rights.
_OTHERS_OF_CREDENTIALS: Final = 0o037
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


def parse_place(text: str) -> str:
    """A place of a key, as it is configured: an absolute path, or `credential:NAME`.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(CREDENTIAL):
        if not re.fullmatch(_CREDENTIAL, text.removeprefix(CREDENTIAL)):
            raise ValueError(
                f"must be {CREDENTIAL}NAME, with the name that the unit's LoadCredential= gives it"
            )
    elif not text.startswith("/"):
        raise ValueError(f"must be an absolute path, or {CREDENTIAL}NAME for a systemd credential")
    return text


def read_key(place: str) -> SecretKey | FleetKey:
    """The key in a file. From then on this process leaves no core file, with the key in it.

    Args:
        place: see `parse_place`.

    Raises:
        BadKey: it cannot be read, others could read or replace it, or it holds no key.
    """
    path, forbidden = Path(place), _OTHERS
    if place.startswith(CREDENTIAL):
        path, forbidden = _credential(place.removeprefix(CREDENTIAL)), _OTHERS_OF_CREDENTIALS
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        raw = _read(path, forbidden)
    except OSError as error:
        hint = " (try sudo)" if isinstance(error, PermissionError) else ""
        raise BadKey(f"the key {path} cannot be read: {error.strerror or error}{hint}") from error
    try:
        return parse_secret(raw.decode("ascii").removesuffix("\n"))
    except UnicodeDecodeError:
        raise BadKey(f"{path} is not a key: it is not text") from None
    except ValueError as error:
        raise BadKey(f"{path} {error}") from None


def _credential(name: str) -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory.startswith("/"):
        raise BadKey(
            f"{CREDENTIAL}{name} exists only in a service: add `LoadCredential={name}:/path/to/file` to its"
            " unit, or name the file itself"
        )
    return Path(directory) / name


def _read(path: Path, forbidden: int) -> bytes:
    # Not blocking: it may be a FIFO, which would keep the start waiting for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check(path, os.fstat(descriptor), forbidden)
        _check_directories(path)
        return os.read(descriptor, _LARGEST)  # more is no key
    finally:
        os.close(descriptor)


def _check(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadKey(f"the key {path} is not a file")
    _check_owner(path, found)
    if found.st_mode & forbidden:
        raise BadKey(
            f"the key {path} has the mode {stat.S_IMODE(found.st_mode):04o}, so that others can use it: if"
            f" they have not, `chmod 0600 {path}`; otherwise replace it (`agentd keys rotate`)"
        )


def _check_directories(path: Path) -> None:
    """Nobody else may be able to put another file in the place of this one, or of a link that leads to it."""
    for directory in {*path.absolute().parents, *path.resolve().parents}:
        found = directory.stat()
        _check_owner(directory, found)
        if found.st_mode & _WRITABLE and not found.st_mode & stat.S_ISVTX:
            raise BadKey(f"others can replace the key {path}: `chmod go-w {directory}`")


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise BadKey(f"{path} belongs to user {found.st_uid}, who could replace the key: `chown root {path}`")


def write_key(path: Path, key: SecretKey | FleetKey) -> None:
    """Write a key to a new file, with mode 0600, and make its directory, with mode 0700, if there is none.

    Raises:
        BadKey: there is something already, which stays as it is; or it cannot be written.
    """
    try:
        _write(path, f"{key.text}\n".encode())
    except FileExistsError as error:
        raise BadKey(f"{path} is there already, and stays as it is: choose another name") from error
    except OSError as error:
        raise BadKey(f"the key cannot be written: {error.strerror or error} at {path}") from error


def _write(path: Path, data: bytes) -> None:
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    _check_directories(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        _sync(path.parent)
    except BaseException:  # half a key is none
        with suppress(OSError):
            path.unlink()
        raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
