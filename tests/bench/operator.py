"""Whoever rotates the keys while things break: the command, again and again, from one host or the other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.ticket_fleet import EVERY, Coordinated

_TIMEOUT: Final = "60s"
_AGAIN: Final = 0.5  # seconds until the other host tries after a failure


@dataclass(frozen=True)
class Run:
    """One run of the command: unix time, seconds, exit status (negative: killed), what it printed."""

    at: float
    took: float
    status: int
    told: str


class Operator(threading.Thread):
    """Rotates every few seconds until `stop`; after a failure the other host takes over.

    Attributes:
        runs: the runs that have ended.
        begins: how many have begun.
    """

    def __init__(self, fleet: Coordinated) -> None:
        super().__init__(daemon=True)
        self.runs: list[Run] = []
        self.begins = 0
        self._hosts = fleet.coordinators
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """Run the command at the pace of the bench."""
        turn = 0
        while not self._over.is_set():
            done = self._rotate(self._hosts[turn % len(self._hosts)].configuration)
            self.runs.append(done)
            if done.status != 0:
                turn += 1
            self._over.wait(max(0.0, EVERY - done.took) if done.status == 0 else _AGAIN)

    def _rotate(self, configuration: Path) -> Run:
        program = str(Path(sys.executable).with_name("agentd"))
        argv = [program, "rotate-tickets", "--config", str(configuration), "--timeout", _TIMEOUT]
        at, began = time.time(), time.monotonic()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.begins += 1
        told, _ = self._process.communicate()
        return Run(at, time.monotonic() - began, self._process.returncode, told.strip())

    def kill(self) -> None:
        """Kill the run that is under way, if one is."""
        if self._process and self._process.poll() is None:
            self._process.kill()

    def stop(self) -> None:
        """End after this run; may be called again."""
        self._over.set()
        self.kill()
        self.join()
