"""1,000 simulated nodes acknowledge one message; somebody waits for all of them, as `publish --wait` does.

Each node writes as the acknowledger does after a quiet time: at once, when it has the message in force. They
have it within the time that the wakes of so many nodes are spread over.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.commands.fleet_tally import tally
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.census import Census
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.newest import Newest
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.bench.rows import Row, p50
from tests.servers.acknowledgers import NAME, acknowledgement
from tests.servers.consul import ConsulAgent

NODES = int(os.environ.get("FLEET_NODES", "1000"))
TIMES = 5
WRITERS = 40
WAKE = NODES / 2000
"""Seconds within which the follower of every node is woken; see agentd/fleet/pace.py."""
PAUSE = 0.25
_LONGEST = 60.0
_MANY = {"limits": {"http_max_conns_per_client": 1000}}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One message: seconds until all were seen, bytes read, readings, writes/s, cores of the server."""

    seconds: float
    read: int
    readings: int
    writes: float
    cores: float


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """The worst of several messages counts for the time, the median for the load."""
    agent = ConsulAgent(directory, extra=_MANY)
    stack.callback(agent.stop)
    agent.start()
    keys = Keys("bench")
    write_all(agent, keys, 1, spread=0.0)
    runs = [_run(agent, keys, num) for num in range(2, 2 + TIMES)]
    writes, read, readings = (
        p50([getattr(one, name) for one in runs]) for name in ("writes", "read", "readings")
    )
    note = f"{writes:.0f} writes/s; {read / 1e6:.1f} MB read in {readings:.0f} readings"
    last = max(one.seconds for one in runs)
    yield Row(
        f"{NODES} nodes acknowledge one message: all seen, worst of {TIMES}", "s", last, "", None, 4, note
    )
    cores = p50([one.cores for one in runs])
    yield Row("... processor of the server over 4 s, p50", "core", cores, "", None, 0.25)


def _run(agent: ConsulAgent, keys: Keys, num: int) -> Run:
    newest = Newest(NAME, num)
    began, used = time.monotonic(), _processor_time(agent.process.pid)
    written: list[float] = []
    writer = threading.Thread(target=lambda: written.append(write_all(agent, keys, num, spread=WAKE)))
    with closing(ConsulClient(ConsulOptions(address=agent.url))) as client:
        read = _count(client)
        census = Census(client, keys)
        catalogue = census.catalogue()
        writer.start()
        index, readings = 0, 0
        while time.monotonic() - began < _LONGEST:
            at = time.monotonic()
            documents = census.documents(index, 5.0)
            index, readings = documents.index, readings + 1
            found = tally(census.members(documents, catalogue, frozenset()), newest, time.time(), 1.0)
            if found.nodes == NODES and found.enough:
                break
            time.sleep(max(0.0, PAUSE - (time.monotonic() - at)))
        took = time.monotonic() - began
    writer.join()
    rest = max(0.0, 4.0 - (time.monotonic() - began))
    time.sleep(rest)  # the load is that of the four seconds in which it may happen
    over = time.monotonic() - began
    cores = (_processor_time(agent.process.pid) - used) / over
    return Run(took, sum(read), readings, NODES / written[0], cores)


def _count(client: ConsulClient) -> list[int]:
    """Bytes of each answer that the client gets from now on."""
    sizes: list[int] = []
    ask = client._transport.request

    def request(*args: Any, **options: Any) -> Any:  # noqa: ANN401 (those of the transport)
        reply = ask(*args, **options)
        sizes.append(len(reply.body))
        return reply

    client._transport.request = request  # type: ignore[method-assign] # only this one
    return sizes


def write_all(
    agent: ConsulAgent,
    keys: Keys,
    num: int,
    *,
    spread: float,
    document: Callable[[int, int], Acknowledgement] = acknowledgement,
) -> float:
    """Have every node write its document within `spread` seconds, with check-and-set; the seconds it took.

    Args:
        agent: through which they write.
        keys: the fleet's.
        num: the number of the message that they have in force.
        spread: seconds.
        document: what a node, given by its number, says then.
    """
    began = time.monotonic()
    draw = random.Random(num)
    due = sorted((draw.uniform(0, spread), node) for node in range(NODES))
    with ThreadPoolExecutor(WRITERS) as pool:
        list(
            pool.map(
                lambda part: _write_some(agent, keys, lambda node: render(document(node, num)), began, part),
                (due[at::WRITERS] for at in range(WRITERS)),
            )
        )
    return time.monotonic() - began


def _write_some(
    agent: ConsulAgent,
    keys: Keys,
    written: Callable[[int], bytes],
    began: float,
    due: Sequence[tuple[float, int]],
) -> None:
    with closing(ConsulClient(ConsulOptions(address=agent.url))) as client:
        kv = ConsulKV(client)
        for at, node in due:
            time.sleep(max(0.0, at - (time.monotonic() - began)))
            key = keys.node(f"lb{node:04}")
            index = _indexes.get(key, 0)
            done = kv.write([{"Verb": "cas", "Key": key, "Value": written(node), "Index": index}])
            _indexes[key] = int(done.results[0]["ModifyIndex"])


_indexes: dict[str, int] = {}


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
