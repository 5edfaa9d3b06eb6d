"""Asks nginx whether it would run with a generation, without touching the one that it runs with.

It owns the verdict (whose fault it is when nginx says no) and the shadow configuration directory in which
nginx sees the candidate instead of the live tree. nginx is asked as it runs: with the -p, -g and -e that the
title of its master shows. It must not change the tree or signal nginx.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, PermanentError, TemporaryError
from agentd.nginx.processes import Processes
from agentd.options import NginxOptions
from agentd.process import run
from agentd.tree import disk

_ERROR: Final = re.compile(r"\[emerg\].*")
_QUOTED: Final = 1000
_KEPT: Final = 16384


class NginxCheck:
    """`nginx -t` on a generation, in a shadow of nginx's configuration directory.

    Args:
        options: which nginx, which configuration.
        tree: the tree's path, below the directory of the configuration.
    """

    def __init__(self, options: NginxOptions, tree: Path) -> None:
        self._options = options
        self._tree = tree
        self._processes = Processes(options)
        self._arguments: list[str] = []

    def __call__(self, candidate: Path) -> None:
        """Check a generation.

        Args:
            candidate: its directory.

        Raises:
            PermanentError: nginx accepts the current generation, but not this one.
            TemporaryError: nginx accepts neither (so something else is broken), there is no current one to
                compare with, or nginx cannot be run.
            TreeError: the shadow cannot be written.
            ConfigError: the tree is not below the directory of nginx's configuration.
        """
        complaint = self.complaint(candidate)
        if complaint is None:
            return
        current = self._tree / "current"
        if not current.exists():
            raise TemporaryError(
                "nginx -t fails, and there is no earlier generation to compare with; fix nginx's files:"
                f" {complaint}"
            )
        elsewhere = self.complaint(current.resolve())
        if elsewhere is not None:
            raise TemporaryError(
                f"nginx's configuration is broken elsewhere, even without this change; fix it: {elsewhere}"
            )
        raise PermanentError(f"nginx -t rejects it: {complaint}")

    def included(self) -> bool:
        """Whether nginx's configuration includes the tree's agentd.conf, in http {} and through `current`.

        Raises:
            TemporaryError: nginx cannot be run, or its configuration is broken before the include.
            TreeError: the probe cannot be written.
            ConfigError: the tree is not below the directory of nginx's configuration.
        """
        word = f"agentd_probe_{secrets.token_hex(8)}"
        with disk.errors("write a probe"):
            scratch = disk.Scratch(self._tree)
            try:
                self._lay_probe(scratch.path, word)
                complaint = self.complaint(scratch.path)
            finally:
                scratch.close()
        if complaint is None or word in complaint:
            return complaint is not None
        if f"{scratch.path.name}/agentd.conf:1" in complaint:  # it is included, but not in http {}
            return False
        raise TemporaryError(f"nginx's configuration is broken; fix it: {complaint}")

    def _lay_probe(self, directory: Path, word: str) -> None:
        """The current generation, except for an agentd.conf that nginx must complain about."""
        current = self._tree / "current"
        if current.is_dir():
            for entry in current.resolve().iterdir():
                (directory / entry.name).symlink_to(entry)
        probe = directory / "agentd.conf"
        probe.unlink(missing_ok=True)
        # A server may have a name in http {} only; what follows is an error everywhere.
        probe.write_text(f"server {{ server_name probe; }} {word};\n")

    def complaint(self, generation: Path) -> str | None:
        """What nginx complains about in a generation, in its own words, or None.

        Raises:
            TemporaryError: nginx cannot be run.
            TreeError: the shadow cannot be written.
            ConfigError: the tree is not below the directory of nginx's configuration.
        """
        no_pid_file = not self._options.pid.exists()
        try:
            with (
                disk.errors("make a shadow of nginx's configuration"),
                shadow(self._options.conf, self._tree, generation) as image,
            ):
                done = run(self.command(image.conf), timeout=self._options.timeout, check=False, keep=_KEPT)
                said = image.real_names(done.output.decode(errors="replace"))
        finally:
            if no_pid_file:
                self._drop_empty_pid_file()
        if done.returncode < 0:
            raise TemporaryError(f"nginx -t {done.ending}; it will be tried again")
        return _complaint(said) if done.returncode else None

    def command(self, conf: Path) -> list[str]:
        """`nginx -t` on a configuration file, with the options of the nginx that runs, or ran last.

        Raises:
            TemporaryError: it cannot be seen which processes run.
        """
        running = self._processes.look()
        # During a binary upgrade the new master's options are the ones to come.
        masters = [one for pid, one in sorted(running.masters.items()) if pid not in running.upgrading]
        if masters:
            self._arguments = masters[0].invocation.arguments
        return [self._options.binary, "-t", "-q", "-c", str(conf), *self._arguments]

    def _drop_empty_pid_file(self) -> None:
        """`nginx -t` leaves an empty one if there was none, and a start script may stumble over it later."""
        with suppress(OSError):
            if self._options.pid.stat().st_size == 0:
                self._options.pid.unlink()


def _complaint(output: str) -> str:
    """The lines that say why, or else all of it, truncated."""
    lines = [match[0] for line in output.splitlines() if (match := _ERROR.search(line))]
    return ("; ".join(lines) or output.strip() or "it printed nothing")[:_QUOTED]


@dataclass(frozen=True, slots=True)
class Shadow:
    """The shadow of one configuration directory.

    Attributes:
        conf: nginx's main file, within the shadow.
        root: the shadow's own directory.
        real: the directory that it is the shadow of.
        current: the tree's `current` within the shadow.
        generation: where that points.
    """

    conf: Path
    root: Path
    real: Path
    current: Path
    generation: Path

    def real_names(self, text: str) -> str:
        """A message of nginx with the real paths instead of the shadow's."""
        return text.replace(str(self.current), str(self.generation)).replace(str(self.root), str(self.real))


@contextmanager
def shadow(conf: Path, tree: Path, generation: Path) -> Iterator[Shadow]:
    """Make a shadow, mode 0700 and removed afterwards, of the directory that contains `conf`.

    Args:
        conf: nginx's main configuration file; relative includes start in its directory.
        tree: the tree, anywhere below that directory.
        generation: what `current` points to in the shadow.

    Raises:
        ConfigError: the tree is elsewhere, so nginx cannot include it by a relative path.
        OSError: the shadow cannot be made.
    """
    real = conf.parent
    if not tree.is_relative_to(real) or tree == real:
        raise ConfigError([f"tree.path: {tree} must be below {real}, the directory of nginx.conf"])
    scratch = disk.Scratch(tree)
    try:
        within = tree.relative_to(real)
        _cast(real, scratch.path, within.parts)
        current = scratch.path / within / "current"
        current.symlink_to(generation)
        yield Shadow(scratch.path / conf.name, scratch.path, real, current, generation)
    finally:
        scratch.close()


def _cast(real: Path, image: Path, way: tuple[str, ...]) -> None:
    """Link everything in `real` except the next step on the way to the tree, which becomes a directory."""
    step = way[0] if way else "current"
    for entry in real.iterdir():
        # Hidden names in the tree are other shadows, and what commits are working on.
        if entry.name != step and not (not way and entry.name.startswith(".")):
            (image / entry.name).symlink_to(entry)
    if way:
        (image / step).mkdir()
        _cast(real / step, image / step, way[1:])
