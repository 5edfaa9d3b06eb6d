"""The glue that agentd replaces: `consul watch` and a shell script."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.servers.consul import ConsulAgent
from tests.servers.process import ServerProcess


class ConsulWatch:
    """`consul watch -type=event`, running `script` for each event of this name."""

    def __init__(self, consul: ConsulAgent, name: str, script: Path) -> None:
        argv = [shutil.which("consul") or "consul", "watch", "-type=event", f"-name={name}", str(script)]
        self._process = ServerProcess(argv, script.with_suffix(".log"), environment=consul.environment)

    def start(self) -> None:
        """Start it; it is up once its handler ran."""
        self._process.start(lambda: True)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()
