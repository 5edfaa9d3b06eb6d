"""A node that deploys: archives and manifests as files, the real fetch and the real programs, one handler.

The store is kept as the daemon keeps it: what a failed attempt stored is dropped.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from agentd.handler import Background, Change, Completed, Context, Limits, NginxOptions
from agentd.process import run
from agentd.sources.fetcher import Fetcher, Sources
from agentd.sources.options import SourceOptions
from agentd.testing import LogLine, event
from agentd.testing.staging import RecordedLog, StagedFiles
from handlers.deploy.handler import Deploy
from handlers.deploy.place import Place, open_place

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", mode: int = 0o644, **fields: Any) -> Member:  # noqa: ANN401 (TarInfo's)
    """A file of an archive; `fields` are TarInfo's own."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), mode, 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def member(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> Member:
    """A member without content, such as a directory or a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, target, mode, 1_600_000_000
    return info, b""


def pack(path: Path, *members: Member) -> Path:
    """Write an archive."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w:") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def place_of(dest: Path) -> Place:
    """Where `dest` is, to be closed."""
    return open_place(str(dest), frozenset({0, os.geteuid()}), follow=True)


def contents(directory: Path) -> dict[str, bytes | str]:
    """Every file below a directory with its content, and every link with its target."""
    return {
        str(path.relative_to(directory)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


class DeployStand:
    """One configured `deploy` on a node of its own below `directory`.

    Attributes:
        dest: the one directory that may be deployed to, unless options say otherwise; it does not exist.
        runs: the programs run, in order.
        stop: ends what runs, as the end of the daemon does.
        now: unix seconds.
    """

    def __init__(self, directory: Path, **options: Any) -> None:  # noqa: ANN401 (the handler's own)
        self.directory = directory
        self.shelf, self.dest = directory / "shelf", directory / "srv" / "app"
        self.shelf.mkdir()
        self.dest.parent.mkdir()
        self.store: dict[str, Any] = {}
        self.runs: list[tuple[str, ...]] = []
        self.stop = threading.Event()
        self.now, self.seconds, self._fired = 1_700_000_000.0, 120.0, 0
        self._log = RecordedLog()
        self._sources = Sources(SourceOptions(allow=(f"file:{self.shelf}/",)), directory / "fetched")
        self.configure(**options)

    def configure(self, **options: Any) -> None:  # noqa: ANN401 (the handler's own)
        """Start anew, with these options."""
        given = {"dests": [str(self.dest)], "allow_commands": True} | options
        self.handler = Deploy(Deploy.Options.model_validate(given))

    @property
    def log(self) -> list[LogLine]:
        """What was logged."""
        return self._log.lines

    # ------------------------------------------------------------------ what is deployed

    def archive(self, *members: Member, name: str = "app.tar") -> dict[str, str]:
        """Put an archive on the shelf; returns the `src` and `checksum` of a manifest."""
        path = pack(self.shelf / name, *members)
        return {"src": f"file://{path}", "checksum": hashlib.sha256(path.read_bytes()).hexdigest()}

    def manifest(self, fields: Mapping[str, Any], name: str = "app.yml") -> str:
        """Put a manifest on the shelf; returns its reference."""
        (self.shelf / name).write_text(yaml.safe_dump({"dest": str(self.dest)} | dict(fields)))
        return f"file:{self.shelf / name}"

    def fire(self, fields: Mapping[str, Any] | str, **more: Any) -> Change:  # noqa: ANN401 (a manifest's)
        """An event for a manifest, of these fields or by reference; each one is fired after those before."""
        self._fired += 1
        reference = fields if isinstance(fields, str) else self.manifest({**fields, **more})
        return event("deploy", reference, ltime=self._fired)

    # ------------------------------------------------------------------ the daemon's part

    def deploy(self, change: Change, **context: Any) -> None:  # noqa: ANN401 (Context's)
        """One attempt; what it stored is kept if it does not raise."""
        made = self.context(**context)
        self.handler.handle(change, made)
        self.store = dict(made.store)

    def context(self, **changed: Any) -> Context:  # noqa: ANN401 (Context's)
        """The context of one call."""
        room, deadline = self._sources.new_directory(), time.monotonic() + self.seconds
        given: dict[str, Any] = {
            "handler": "deploy", "now": self.now, "files": StagedFiles({}, {}),
            "store": copy.deepcopy(self.store), "log": self._log, "run": self.run, "nginx": NginxOptions(),
            "fetch": Fetcher(self._sources, room, deadline, self._log, self.stop),
        }  # fmt: skip
        return Context(**(given | changed))

    def run(  # noqa: PLR0913 (as `Run` has it)
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,
        most: int | None = None,
        limits: Limits | None = None,
        background: Background | None = None,
        read_only: bool = False,  # noqa: ARG002 (it runs all)
    ) -> Completed:
        """`Context.run`."""
        self.runs.append(tuple(argv))
        seconds = self.seconds if timeout is None else timeout
        return run(
            argv, stdin=stdin, env=env, timeout=seconds, check=check, keep=keep, most=most,
            limits=limits, stop=self.stop, background=background,
        )  # fmt: skip
