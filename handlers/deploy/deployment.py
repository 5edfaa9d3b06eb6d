"""One deploy, from an allowed manifest to a `dest` that is either as the manifest says or unchanged.

The order is Stretcher's: fetch and verify, `pre`, unpack, sync, `post`, and finally `success` or `failure`. A
`post` command sees the new `dest`; if one fails, the old `dest` is back before `failure` runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.handler import Context, HandlerError, PermanentError, TemporaryError
from handlers.deploy import unpack
from handlers.deploy.hooks import CommandFailedError, Hooks
from handlers.deploy.manifest import DeployManifest
from handlers.deploy.options import DeployOptions
from handlers.deploy.place import Place
from handlers.deploy.swap import BusyError, Swap
from handlers.deploy.sync import prepare

_SUMMARY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was put in place: device and inode of `dest`, and the members and bytes unpacked."""

    device: int
    inode: int
    entries: int
    size: int


class Deployment:
    """One attempt.

    Args:
        change: ID of the change, for the commands.
    """

    def __init__(
        self, manifest: DeployManifest, options: DeployOptions, context: Context, change: str
    ) -> None:
        self._manifest, self._options, self._context = manifest, options, context
        self._hooks = Hooks(manifest.commands, options, context, change)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Run the `failure` commands if what is done meanwhile raises, unless it will be tried again.

        Raises:
            HandlerError: what was raised; an OSError as TemporaryError.
        """
        try:
            yield
        except OSError as error:
            explained = TemporaryError(_explain(error, self._manifest.target))
            self.failed(explained)
            raise explained from error
        except HandlerError as error:
            self.failed(error)
            raise

    def failed(self, error: HandlerError) -> None:
        """Run the `failure` commands, if they are allowed, unless the deploy will be tried again."""
        self._hooks.log.add(f"the deploy failed: {error}")
        again = isinstance(error, TemporaryError) and error.retry_after != math.inf
        if again and not self._context.last_attempt:
            return
        if not self._options.allows(self._manifest.commands.failure):
            return
        with suppress(CommandFailedError):  # it is logged, and changes nothing any more
            self._hooks.run("failure")

    def run(self) -> Deployed | None:
        """Deploy. Returns what is in place, or None if there were only commands.

        Raises:
            PermanentError: the archive is refused, or not the expected one; `dest` is unchanged.
            TemporaryError: something failed, such as a command; `dest` is unchanged, unless the message says
                that only a `success` command failed.
        """
        with self.failing():
            deployed = self._deploy()
        self._hooks.log.add("the deploy succeeded")
        try:
            self._hooks.run("success")
        except CommandFailedError as error:
            raise CommandFailedError(f"the deploy is in place, but {error}") from error
        return deployed

    def _deploy(self) -> Deployed | None:
        if not self._manifest.src:
            self._hooks.run("pre")
            self._hooks.run("post")
            return None
        archive = self._fetch()
        self._hooks.run("pre")
        if self._context.dry_run:
            self._context.run(self._unpack_command(archive, Path("tree")), check=False)
            self._hooks.run("post")
            return None
        with self._options.place(self._manifest.target) as place:
            return self._replace(place, archive)

    def _fetch(self) -> Path:
        """The archive, verified against the manifest's checksum."""
        archive = self._context.fetch(
            self._manifest.src, digest=self._manifest.digest, expand=False,
            max_size=self._options.max_size, rate=self._options.max_bandwidth,
        )  # fmt: skip
        self._hooks.log.add(f"fetched the archive: {archive.stat().st_size} bytes, {self._manifest.digest}")
        return archive

    def _replace(self, place: Place, archive: Path) -> Deployed:
        """Replace `dest` by the archive's contents, and keep that if `post` succeeds."""
        with Swap(place) as swap:
            tree = swap.path / "tree"
            tree.mkdir()
            summary = self._unpack(archive, tree)
            archive.unlink()
            new = prepare(self._manifest, swap.path, place, self._context.run)
            swap.flip(new)
            self._hooks.log.add(
                f"swapped in the new {place.path}: {summary['entries']} entries, {summary['bytes']} bytes"
            )
            self._hooks.run("post")
            swap.confirm()
            found = place.lstat()
        if found is None:
            raise TemporaryError(f"{place.path} was removed while it was deployed")
        return Deployed(found.st_dev, found.st_ino, summary["entries"], summary["bytes"])

    def _unpack(self, archive: Path, tree: Path) -> dict[str, Any]:
        ended = self._context.run(
            self._unpack_command(archive, tree), check=False, keep=_SUMMARY, most=_SUMMARY
        )
        if exceeded := unpack.limits_of(self._options.max_unpacked).exceeded(ended.returncode):
            raise PermanentError(f"the archive is refused: unpacking it takes {exceeded}")
        last = ended.output.strip().rpartition(b"\n")[2]
        try:
            summary: dict[str, Any] = json.loads(last)
        except ValueError:
            raise TemporaryError(f"the archive could not be unpacked: the program {ended.ending}") from None
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


def _explain(error: OSError, dest: str) -> str:
    if isinstance(error, BusyError):
        return str(error)
    if isinstance(error, FileNotFoundError) and dest and not Path(dest).parent.is_dir():
        return f"there is no directory {Path(dest).parent}; create it, or let `pre` create it"
    where = str(error.filename or dest)
    inside = "" if where.startswith("/") else f"{dest}: "
    return f"{inside}{where}: {error.strerror or error}"
