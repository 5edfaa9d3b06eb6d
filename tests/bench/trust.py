"""What a signed and sealed message costs: to write and read one, and to be able to."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agentd.trust.key_files import write_key
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import new_fleet_key, new_secret_key
from agentd.trust.message import Place, parse_message
from tests.bench.rows import Row, p50, spread

TIMES = 2000
STARTS = 15
RING = 4 * 80
"""Bytes of a payload: four session ticket keys."""

# What the daemon has imported anyway comes first, so that only the rest counts. The options of the section
# are part of that: how much they cost every start is measured by importing them anew. Messages are read in a
# thread, once there are some, so that what they need delays no start.
_START = """
import re, sys, time
import agentd.agent, agentd.supervisor, agentd.fleet.fleet
for name in [name for name in sys.modules if name.startswith("agentd.trust.")]:
    del sys.modules[name]
re.purge()
began = time.process_time()
import agentd.trust.options
always = (time.process_time() - began) * 1000
def rss():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
before, began = rss(), time.process_time()
from agentd.trust.configured import make_keyring, read_fleet_keys
from agentd.trust.options import TrustOptions
public, file = sys.argv[1:]
options = TrustOptions.model_validate(
    {"publishers": {"ops": {"key": public, "may": "*"}}, "seal": "tickets", "fleet_keys": [file]}
)
keys = read_fleet_keys(options)
took = (time.process_time() - began) * 1000
from agentd.trust.key_files import write_key
make_keyring(options, keys).check()
print(took, (rss() - before) / 1024, always)
"""


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """One message after another, each under a number of its own."""
    del stack
    secret, fleet = new_secret_key(), new_fleet_key()
    signer, keyring = Signer(secret, fleet), Keyring([Publisher("ops", (secret.public,), ("*",))], [fleet])
    writing, reading = [], []
    for num in range(1, TIMES + 1):
        place = Place("bench", "tickets", num, num - 1)
        claims: dict[str, str | int] = {
            "kind": "payload",
            "via": "publish",
            "id": str(num),
            "issued": num,
            "publisher": "bench",
        }
        began = time.perf_counter()
        raw = signer.write(place, claims, bytes(RING), sealed=True)
        written = time.perf_counter()
        body = keyring.body(keyring.verify(parse_message(raw)))
        reading.append((time.perf_counter() - written) * 1000)
        writing.append((written - began) * 1000)
        if body != bytes(RING):
            raise RuntimeError("the message was not read as it was written")
    both = [one + other for one, other in zip(writing, reading, strict=True)]
    yield Row(
        f"seal, sign, verify and open {RING} bytes, p50 of {TIMES}", "ms", p50(both), "", None, 0.5,
        f"writing {p50(writing):.3f} ms, reading {p50(reading):.3f} ms; {spread(both)}",
    )  # fmt: skip
    file = directory / "keys" / "fleet.key"
    write_key(file, fleet)
    starts = [_start(secret.public.text, str(file)) for _ in range(STARTS)]
    always = [one[2] for one in starts]
    for at, (what, unit, goal) in enumerate(
        (
            ("processor time of the start", "ms", 5.0),
            ("memory of the daemon, once it has verified", "MB", 2.0),
        )
    ):
        found = [one[at] for one in starts]
        note = spread(found) + (
            f"; without trust {p50(always):.2f} ms for its options" if unit == "ms" else ""
        )
        yield Row(f"{what}: more with trust, p50 of {STARTS}", unit, p50(found), "", None, goal, note)


def _start(public: str, file: str) -> tuple[float, float, float]:
    """Milliseconds and MB that trust costs, and milliseconds without trust; in a new process."""
    argv = [sys.executable, "-c", _START, public, file]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    took, more, always = map(float, done.stdout.split())
    return took, more, always
