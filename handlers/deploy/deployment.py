"""One deploy, from a manifest that is allowed to a `dest` that is what the manifest says, or what it was.

The order is Stretcher's: fetch and verify, `pre`, unpack, synchronise, `post`, and at the end `success` or
`failure`. A `post` command sees the new `dest`; if one fails, the old one is back before `failure` runs.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.handler import Context, HandlerError, PermanentError, TemporaryError
from handlers.deploy import unpack
from handlers.deploy.commands import CommandFailedError, Hooks
from handlers.deploy.manifest import Manifest
from handlers.deploy.options import DeployOptions
from handlers.deploy.staging import BusyError, Staging
from handlers.deploy.sync import prepare

_SUMMARY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is in place now: device and inode of `dest`, and the number of members and bytes unpacked."""

    device: int
    inode: int
    entries: int
    size: int


class Deployment:
    """One attempt.

    Args:
        dest: where `manifest.dest` really lies; None if there are only commands to run.
        change: id of the change, for the commands.
    """

    def __init__(
        self, manifest: Manifest, dest: Path | None, options: DeployOptions, context: Context, change: str
    ) -> None:
        self._manifest, self._dest, self._options, self._context = manifest, dest, options, context
        self._hooks = Hooks(manifest.commands, options, context, change)

    def run(self) -> Deployed | None:
        """Deploy. Returns what is in place, or None if there were only commands.

        Raises:
            PermanentError: the archive is refused, or not what it should be; `dest` is what it was.
            TemporaryError: something failed, a command among them; `dest` is what it was, unless the
                message says that only a `success` command failed.
        """
        try:
            deployed = self._deploy()
        except OSError as error:
            explained = TemporaryError(_explain(error, self._dest))
            self._failed(explained)
            raise explained from error
        except HandlerError as error:
            self._failed(error)
            raise
        self._hooks.log.add("the deploy succeeded")
        try:
            self._hooks.run("success")
        except CommandFailedError as error:
            raise CommandFailedError(f"all is in place, but {error}") from error
        return deployed

    def _deploy(self) -> Deployed | None:
        if self._dest is None:
            self._hooks.run("pre")
            self._hooks.run("post")
            return None
        archive = self._fetch()
        self._hooks.run("pre")
        if self._context.dry_run:
            self._context.run(self._unpack_command(archive, Path("tree")), check=False)
            self._hooks.run("post")
            return None
        return self._replace(self._dest, archive)

    def _fetch(self) -> Path:
        """The archive, verified against the manifest's checksum."""
        archive = self._context.fetch(
            self._manifest.src, digest=self._manifest.digest, expand=False,
            max_size=self._options.max_size, rate=self._options.max_bandwidth,
        )  # fmt: skip
        self._hooks.log.add(f"fetched the archive: {archive.stat().st_size} bytes, {self._manifest.digest}")
        return archive

    def _replace(self, dest: Path, archive: Path) -> Deployed:
        """Exchange `dest` for the archive's content, and leave it so if `post` succeeds."""
        with Staging(dest) as staging:
            tree = staging.path / "tree"
            tree.mkdir()
            summary = self._unpack(archive, tree)
            archive.unlink()
            new = prepare(self._manifest, tree, dest, self._context.run)
            staging.flip(new)
            self._hooks.log.add(
                f"{dest} is the new one: {summary['entries']} entries, {summary['bytes']} bytes"
            )
            self._hooks.run("post")
            staging.confirm()
            found = dest.lstat()
        return Deployed(found.st_dev, found.st_ino, summary["entries"], summary["bytes"])

    def _unpack(self, archive: Path, tree: Path) -> dict[str, Any]:
        ended = self._context.run(self._unpack_command(archive, tree), check=False, keep=_SUMMARY)
        last = ended.output.strip().rpartition(b"\n")[2]
        try:
            summary: dict[str, Any] = json.loads(last)
        except ValueError:
            raise TemporaryError(f"the archive could not be unpacked (status {ended.returncode})") from None
        if "refused" in summary:
            raise PermanentError(f"the archive is refused: {summary['refused']}")
        if "failed" in summary:
            raise TemporaryError(f"the archive could not be unpacked: {summary['failed']}")
        return summary

    def _unpack_command(self, archive: Path, tree: Path) -> list[str]:
        options = self._options
        flags = {"--keep-owner": options.keep_owner, "--outside-links": options.outside_links}
        return [
            *(sys.executable, "-I", "-m", unpack.__name__),
            f"--mode={self._manifest.dest_mode:o}",
            f"--max-size={options.max_unpacked}",
            f"--max-entries={options.max_entries}",
            *(flag for flag, wanted in flags.items() if wanted),
            *(str(archive), str(tree)),
        ]

    # ------------------------------------------------------------------ failure

    def _failed(self, error: HandlerError) -> None:
        """Run the `failure` commands, unless the deploy is tried again."""
        self._hooks.log.add(f"the deploy failed: {error}")
        again = isinstance(error, TemporaryError) and error.retry_after != math.inf
        if not again or self._context.last_attempt:
            with suppress(CommandFailedError):  # it is in the log, and changes nothing any more
                self._hooks.run("failure")


def _explain(error: OSError, dest: Path | None) -> str:
    if isinstance(error, BusyError):
        return str(error)
    if isinstance(error, FileNotFoundError) and dest is not None and not dest.parent.is_dir():
        return f"there is no directory {dest.parent}; make it, or have `pre` make it"
    return f"{error.filename or dest}: {error.strerror or error}"
