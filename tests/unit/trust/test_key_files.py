"""Files of keys: written for their owner alone, and not read if others could have touched them."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import BadKey
from agentd.trust.key_files import parse_place, read_key, write_key
from agentd.trust.keys import FleetKey, SecretKey
from tests.unit.trust.samples import FLEET, OPS

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a publisher's key that was written."""
    path = tmp_path / "keys" / "ops.key"
    write_key(path, OPS)
    return path


@pytest.mark.parametrize("key", [OPS, FLEET])
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_key_is_written_for_its_owner_alone(tmp_path: Path, key: SecretKey | FleetKey, umask: int) -> None:
    """Whatever the umask is; it is read as it was."""
    before = os.umask(umask & 0o077)
    try:
        write_key(tmp_path / "keys" / "a.key", key)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "keys", tmp_path / "keys" / "a.key")]
    assert modes == [0o700, 0o600]
    assert read_key(str(tmp_path / "keys" / "a.key")) == key


def test_who_has_read_a_key_leaves_no_core_file(path: Path) -> None:
    """A command that is run by hand is not under the limits of a unit."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        read_key(str(path))
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_a_key_is_never_overwritten(path: Path) -> None:
    """Nor is one written through a link."""
    link = path.with_name("link.key")
    link.symlink_to(path.with_name("target.key"))
    for taken in (path, link):
        with pytest.raises(BadKey, match="there already"):
            write_key(taken, FLEET)
    assert read_key(str(path)) == OPS
    assert not path.with_name("target.key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_key_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    """With the command that mends it."""
    path.chmod(mode)
    with pytest.raises(BadKey, match=f"mode 0{mode:o}.*chmod 0600 {path}"):
        read_key(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_only_its_owner_can_use_is_read(path: Path, mode: int) -> None:
    """It need not be writable."""
    path.chmod(mode)
    assert read_key(str(path)) == OPS


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_in_which_others_can_write_is_refused(path: Path, mode: int) -> None:
    """They could put their own key there: that of the key, and that of a link to it."""
    link = path.parent.parent / "link.key"
    link.symlink_to(path)
    path.parent.chmod(mode)
    for place in (path, link):
        with pytest.raises(BadKey, match=f"chmod go-w {path.parent}"):
            read_key(str(place))
    with pytest.raises(BadKey, match="others can replace"):
        write_key(path.with_name("new.key"), FLEET)
    assert not path.with_name("new.key").exists()


def test_a_directory_far_above_counts_as_well(path: Path) -> None:
    """Who can rename one of them can replace all below it."""
    path.parent.parent.chmod(0o777)
    with pytest.raises(BadKey, match=f"chmod go-w {path.parent.parent}"):
        read_key(str(path))


@as_root
@pytest.mark.parametrize("which", [lambda path: path, lambda path: path.parent])
def test_what_belongs_to_somebody_else_is_refused(path: Path, which: Callable[[Path], Path]) -> None:
    """A file, or its directory."""
    os.chown(which(path), 12345, -1)
    with pytest.raises(BadKey, match="belongs to user 12345"):
        read_key(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"k4.secret.AAAA\n",
        OPS.text.encode() * 2,
        b"\xff\xfe",
        b"x" * 100_000,
        OPS.public.text.encode(),
    ],
)
def test_a_file_without_a_key_is_named_and_not_quoted(path: Path, content: bytes) -> None:
    """Part of a key may be in it."""
    path.write_bytes(content)
    with pytest.raises(BadKey) as caught:
        read_key(str(path))
    assert str(path) in str(caught.value)
    assert (
        content.decode("latin-1").strip() not in str(caught.value).replace(str(path), "")
        or not content.strip()
    )


def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    """A FIFO would keep the start waiting; a directory is no key, nor is what is not there."""
    fifo = path.with_name("fifo.key")
    os.mkfifo(fifo, 0o600)
    for place in (fifo, path.parent, path.with_name("missing.key")):
        with pytest.raises(BadKey, match=str(place)):
            read_key(str(place))


def test_nothing_is_left_of_a_key_that_could_not_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one would be in the way."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadKey, match="No space left"):
        write_key(path.with_name("new.key"), FLEET)
    assert not path.with_name("new.key").exists()


# ---------------------------------------------------------------- credentials


def test_a_credential_is_found_where_systemd_puts_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rights that it gives: an access list for the service's user shows as those of the group."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    path.rename(path.with_name("ops"))
    for mode in (0o400, 0o440):
        path.with_name("ops").chmod(mode)
        assert read_key("credential:ops") == OPS
    path.with_name("ops").chmod(0o444)
    with pytest.raises(BadKey, match="mode 0444"):
        read_key("credential:ops")


@pytest.mark.parametrize("directory", [None, "", "relative"])
def test_without_systemd_there_is_no_credential(
    directory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to write into the unit."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if directory is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
    with pytest.raises(BadKey, match=r"LoadCredential=ops:/path/to/file"):
        read_key("credential:ops")


@pytest.mark.parametrize(
    "text", ["", "ops.key", "./ops.key", "credential:", "credential:../x", "credential:.x", "credential:a/b"]
)
def test_a_place_is_a_path_or_the_name_of_a_credential(text: str) -> None:
    """Never a path below the directory of credentials, or one that depends on where agentd is started."""
    with pytest.raises(ValueError, match="credential"):
        parse_place(text)
