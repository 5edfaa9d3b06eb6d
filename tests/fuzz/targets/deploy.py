"""What `deploy` reads: manifests, archives, and the references to both."""

from __future__ import annotations

import tempfile
from pathlib import Path

from handlers.deploy.manifest import RefusedManifestError, read_manifest
from handlers.deploy.members import ArchiveLimits, RefusedArchiveError
from handlers.deploy.unpack import unpack
from tests.fuzz.target import target

_LIMITS = ArchiveLimits(size=2**20, entries=100)
_ENVIRONMENT = {"REGION": "eu", "EMPTY": ""}


@target(RefusedManifestError, inputs=("manifest-braces.yml", "manifest-merge.yml", "manifest-slow.yml"))
def manifest(data: bytes) -> None:
    """A manifest; what is accepted can be printed and compared."""
    read = read_manifest(data, _ENVIRONMENT)
    manifest = read.manifest
    assert all("\0" not in line for line in manifest.commands.every)
    assert not manifest.src or (manifest.target.startswith("/") and manifest.digest)


@target(RefusedArchiveError, inputs=("sparse-damaged.tar",))
def archive(data: bytes) -> None:
    """An archive, unpacked by root into an empty directory, beside which nothing may appear."""
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        root, packed = Path(directory, "root"), Path(directory, "archive")
        root.mkdir()
        packed.write_bytes(data)
        try:
            unpack(packed, root, _LIMITS, keep_owner=True)
        finally:
            assert sorted(path.name for path in Path(directory).iterdir()) == ["archive", "root"]
