"""Runs the commands of a manifest, and keeps the log that its `success` and `failure` commands read.

A command is a line for /bin/sh, as in Stretcher, run in a minimal environment and with a time limit. The log
holds what was done and printed, for those commands alone: agentd's own log gets only lengths.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from agentd.handler import Context, TemporaryError
from handlers.deploy.manifest import Commands
from handlers.deploy.options import DeployOptions

Stage = Literal["pre", "post", "success", "failure"]

_KEPT: Final = 64 * 1024
_LONGEST_LOG: Final = 1024 * 1024


class CommandFailedError(TemporaryError):
    """A command of the manifest failed, so the deploy has failed for good."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=math.inf)


class DeployLog:
    """What happened in one deploy, as text; only the end of a very long one."""

    def __init__(self) -> None:
        self._text = bytearray()

    def add(self, line: str, output: bytes = b"") -> None:
        """Add a line, and below it a program's output."""
        self._text += line.encode(errors="replace") + b"\n" + output
        if output and not output.endswith(b"\n"):
            self._text += b"\n"
        del self._text[: max(0, len(self._text) - _LONGEST_LOG)]

    def __bytes__(self) -> bytes:
        return bytes(self._text)


class Hooks:
    """The commands of one manifest, in one attempt."""

    def __init__(self, commands: Commands, options: DeployOptions, context: Context, change: str) -> None:
        self.log = DeployLog()
        self._commands, self._options, self._context = commands, options, context
        self._env = {
            **options.environment(),
            "AGENTD_HANDLER": context.handler,
            "AGENTD_CHANGE_ID": change,
        }

    def run(self, stage: Stage) -> None:
        """Run the commands of a stage, in order; `success` and `failure` get the log on standard input.

        Raises:
            CommandFailedError: one failed; those after it were not run.
        """
        lines: tuple[str, ...] = getattr(self._commands, stage)
        piped = bytes(self.log) if stage in ("success", "failure") else b""
        for number, line in enumerate(lines, 1):
            self._one(f"{stage} command {number} of {len(lines)}", line, piped)

    def _one(self, name: str, line: str, piped: bytes) -> None:
        try:
            ended = self._context.run(
                ["/bin/sh", "-c", line], stdin=piped, env=self._env,
                timeout=self._options.command_timeout, check=False, keep=_KEPT,
                limits=self._options.command_limits.limits, background=self._options.background,
            )  # fmt: skip
        except TemporaryError as error:
            self.log.add(f"{name}: {line}: {error}")
            raise CommandFailedError(f"{name}: {error}") from error
        self.log.add(f"{name}: {line}", ended.output)
        self._context.log.info(
            "deploy.command", command=name, status=ended.returncode,
            duration=round(ended.duration, 3), output_bytes=len(ended.output),
        )  # fmt: skip
        if ended.returncode:
            self.log.add(f"{name}: {ended.ending}")
            raise CommandFailedError(f"the {name} {ended.ending}{_last_line(ended.output)}")


def _last_line(output: bytes) -> str:
    text = output.decode(errors="replace").strip().rpartition("\n")[2]
    shown = "".join(character if character.isprintable() else "?" for character in text[:200])
    return f": {shown}" if shown else ""
