"""The bouncing clients of a bench: started, stopped, and what their connections come to."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.bench.bouncing import Connection, Plan, read
from tests.servers.nginx import Nginx

_PATIENCE: Final = 30.0


@dataclass(frozen=True)
class Tally:
    """What came of some connections.

    Attributes:
        offered: how many offered a session to another node and were answered.
        resumed: how many of those were resumed.
        missed: those that were not.
        begun: full handshakes of clients that had no session.
        errors: how many failed, by reason; they are neither offered nor missed.
    """

    offered: int
    resumed: int
    missed: Sequence[Connection]
    begun: int
    errors: Mapping[str, int]

    @property
    def percent(self) -> float:
        """Missed, of a hundred that were offered."""
        return 100 * len(self.missed) / self.offered if self.offered else 0.0

    def note(self) -> str:
        """Beside a figure."""
        failed = f"; {sum(self.errors.values())} connections failed" if self.errors else ""
        return f"of {self.offered:,} ({self.percent:.2g} %){failed}"


class Clients:
    """Clients of one set of servers; `start`, then `stop`.

    Args:
        log: where they log; replaced.
        servers: by the name of the node.
        oldest: seconds for which each session is offered.
        rate: connections a second.
    """

    def __init__(self, log: Path, servers: Mapping[str, Nginx], *, oldest: float, rate: float) -> None:
        self._log = log
        places = {name: (one.address, one.tls_port) for name, one in servers.items()}
        self._plan = Plan(str(log), places, oldest, rate)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Clients:
        """Start them."""
        self._log.write_bytes(b"")
        argv = [sys.executable, "-m", "tests.bench.bouncing", json.dumps(asdict(self._plan))]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        return self

    def stop(self) -> None:
        """End them; may be called again.

        Raises:
            RuntimeError: they ended by themselves.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        ended = process.poll()
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        if ended is not None:
            raise RuntimeError(f"the clients ended by themselves with status {ended}")

    def tally(self, since: float = 0.0, until: float = math.inf) -> Tally:
        """What came of the connections that began in this time (unix seconds)."""
        return count(one for one in read(self._log) if since <= one.at < until)


def count(connections: Iterable[Connection]) -> Tally:
    """Count them."""
    every = list(connections)
    outcomes = Counter(one.outcome for one in every)
    return Tally(
        outcomes["resumed"] + outcomes["missed"],
        outcomes["resumed"],
        [one for one in every if one.outcome == "missed"],
        outcomes["begun"],
        Counter(one.reason for one in every if one.outcome == "error"),
    )
