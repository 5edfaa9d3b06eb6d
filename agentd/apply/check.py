"""Asks nginx whether it would run with a generation, without touching what it runs with now.

It owns the verdict: who is to blame when nginx says no. It must not change the tree or signal nginx.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.apply import disk
from agentd.apply.process import ending, run
from agentd.apply.shadow import shadow
from agentd.errors import PermanentError, TemporaryError
from agentd.options import NginxOptions

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

    def __call__(self, candidate: Path) -> None:
        """Check a generation.

        Args:
            candidate: its directory.

        Raises:
            PermanentError: nginx takes what is current, but not this.
            TemporaryError: nginx takes neither (so something else is broken), there is nothing current to
                compare with, or nginx cannot be asked.
            TreeError: the shadow cannot be written.
            ConfigError: the tree does not lie below the directory of nginx's configuration.
        """
        complaint = self._test(candidate)
        if complaint is None:
            return
        current = self._tree / "current"
        if not current.exists():
            raise TemporaryError(
                f"nginx -t fails, and there is no earlier generation to compare with; mend its configuration:"
                f" {complaint}"
            )
        elsewhere = self._test(current.resolve())
        if elsewhere is not None:
            raise TemporaryError(
                f"nginx's configuration is broken elsewhere, also without this change; mend it: {elsewhere}"
            )
        raise PermanentError(f"nginx -t refuses it: {complaint}")

    def included(self) -> bool:
        """Whether nginx's configuration includes the tree's agentd.conf, in http {} and through `current`.

        Raises:
            TemporaryError: nginx cannot be asked, or its configuration is broken before it gets there.
            TreeError: the probe cannot be written.
            ConfigError: the tree does not lie below the directory of nginx's configuration.
        """
        word = f"agentd_probe_{secrets.token_hex(8)}"
        with disk.errors("write a probe"):
            scratch = disk.Scratch(self._tree)
            try:
                self._lay_probe(scratch.path, word)
                complaint = self._test(scratch.path)
            finally:
                scratch.close()
        if complaint is None or word in complaint:
            return complaint is not None
        if f"{scratch.path.name}/agentd.conf:1" in complaint:  # it got there, but not in http {}
            return False
        raise TemporaryError(f"nginx's configuration is broken; mend it: {complaint}")

    def _lay_probe(self, directory: Path, word: str) -> None:
        """The current generation, but for an agentd.conf that nginx must trip over."""
        current = self._tree / "current"
        if current.is_dir():
            for entry in current.resolve().iterdir():
                (directory / entry.name).symlink_to(entry)
        probe = directory / "agentd.conf"
        probe.unlink(missing_ok=True)
        # Only in http {} may a server have a name; what comes after it is an error everywhere.
        probe.write_text(f"server {{ server_name probe; }} {word};\n")

    def _test(self, generation: Path) -> str | None:
        """What nginx has against a generation: its own words, or None if nothing."""
        no_pid_file = not self._options.pid.exists()
        try:
            with (
                disk.errors("make a shadow of nginx's configuration"),
                shadow(self._options.conf, self._tree, generation) as image,
            ):
                argv = [self._options.binary, "-t", "-q", "-c", str(image.conf)]
                done = run(argv, timeout=self._options.timeout, check=False, keep=_KEPT)
                said = image.real_names(done.output.decode(errors="replace"))
        finally:
            if no_pid_file:
                self._drop_empty_pid_file()
        if done.returncode < 0:
            raise TemporaryError(f"nginx -t {ending(done)}; it is tried again")
        return _complaint(said) if done.returncode else None

    def _drop_empty_pid_file(self) -> None:
        """`nginx -t` leaves one if there was none, and a later start script may trip over it."""
        with suppress(OSError):
            if self._options.pid.stat().st_size == 0:
                self._options.pid.unlink()


def _complaint(output: str) -> str:
    """The lines that say why, else all of it; bounded."""
    lines = [match[0] for line in output.splitlines() if (match := _ERROR.search(line))]
    return ("; ".join(lines) or output.strip() or "it said nothing")[:_QUOTED]
