"""A blacklist of a million lines: compiled, committed, added to, and served."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from handlers.ip_blacklist.compile import CompileJob
from handlers.ip_blacklist.exemptions import Exemptions
from handlers.ip_blacklist.ranges import IPV4, IPV6
from tests.bench.rows import Row, p50, spread
from tests.messy import messy
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.nginx import Nginx
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

LINES = 1_000_000
COMMITS, ADDS, ROUNDS, RUNS = 5, 7, 3, 7
_COMMITTED = re.compile(r"^agentd_commit_duration_seconds_sum (\S+)", re.MULTILINE)


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """The engine alone, then a node."""
    yield from _engine(directory)
    certificate = make_certificate(directory)
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    handlers = main_job(interval="0s")
    handlers["blacklist"] |= {"timeout": "5m", "options": {"lists": {"big": _options(directory)}}}
    node = Node(
        directory / "n", certificate, number=1, consul=consul, handlers=handlers,
        settings={"sources": {"allow": [f"file:{directory}/"]}},
    )  # fmt: skip
    stack.callback(node.stop)
    node.start()
    yield from _loads(stack, node, directory, certificate)
    yield _serving(stack, node.nginx, directory / "p", certificate)


def _options(directory: Path) -> dict[str, object]:
    return {"reference": f"file:{directory}/big"}


# ------------------------------------------------------------------ the engine


def _engine(directory: Path) -> Iterator[Row]:
    """Each as a program of its own, from its start to its end."""
    source, made = directory / "messy", directory / "made"
    source.write_bytes(messy(LINES))
    made.mkdir()
    exempt = Exemptions(())
    job = CompileJob(str(source), str(made), None, exempt.ranges(IPV4), exempt.ranges(IPV6), (8, 19))
    ours_argv = [sys.executable, "-I", "-m", "handlers.ip_blacklist.child", "compile"]
    theirs_argv = [sys.executable, "-m", "tests.bench.collapse", str(source), f"{made}/4", f"{made}/6"]
    ours = [_run(ours_argv, json.dumps(asdict(job)).encode()) for _ in range(ROUNDS)]
    theirs = _run(theirs_argv, b"")  # once: it takes half a minute
    yield Row(
        "1,000,000 messy lines: parse, merge, subtract, render", "s", p50([took for took, _ in ours]),
        "ipaddress.collapse_addresses + the same rendering", theirs[0], 0.1,
        spread([took for took, _ in ours]),
    )  # fmt: skip
    yield Row("the same, peak memory", "MB", p50([peak for _, peak in ours]), "the same", theirs[1], 0.25)


def _run(argv: Sequence[str], stdin: bytes) -> tuple[float, float]:
    """Seconds and peak memory in MB of a program."""
    began = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    return took, usage.ru_maxrss / 1024


# ------------------------------------------------------------------ the node


def _loads(stack: ExitStack, node: Node, directory: Path, certificate: Certificate) -> Iterator[Row]:
    hand = _by_hand(stack, directory / "h", certificate)
    before = _rss(node)
    loads, commits, theirs = [], [], []
    for number in range(COMMITS):
        (directory / "big").write_text(_hosts(number))
        committed, began = _committed(node), time.monotonic()
        _apply(node, b"load big")
        loads.append(time.monotonic() - began)
        commits.append(_committed(node) - committed + _reloaded(node))
        theirs.append(_check_and_hup(hand, node.read("blacklist/lists/big.ipv4"), number))
    after = _rss(node)
    adds = []
    for number in range(ADDS):
        began = time.monotonic()
        _apply(node, f"add 198.51.100.{2 * number}".encode())
        adds.append(time.monotonic() - began)
    yield Row("the daemon's resident memory after it", "MB", after - before, "", None, 10, f"{after:.0f} MB")
    yield Row(
        f"commit of 1,000,000 entries: check + reload proved, p50 of {COMMITS}", "s", p50(commits),
        "nginx -t + HUP by hand", p50(theirs), 1.2, spread(commits),
    )  # fmt: skip
    yield Row(
        f"one `add` beside a list of 1,000,000, p50 of {ADDS}", "s", p50(adds), "full load", p50(loads), 0.2,
        spread(adds),
    )  # fmt: skip


def _hosts(seed: int) -> str:
    """A million different IPv4 addresses, in no order."""
    rng = random.Random(seed)
    values = rng.sample(range(11 << 24, 100 << 24), LINES)
    return "".join(f"{v >> 24}.{v >> 16 & 255}.{v >> 8 & 255}.{v & 255}\n" for v in values)


def _apply(node: Node, payload: bytes) -> None:
    entry = node.outcome(node.fire(BLACKLIST_EVENT, payload))
    if entry["outcome"] != "applied":
        raise RuntimeError(f"{payload!r}: {entry}")


def _committed(node: Node) -> float:
    """Seconds that all commits took so far."""
    found = _COMMITTED.search(node.agentd.get("/metrics")[1])
    if found is None:
        raise RuntimeError("the metrics have no agentd_commit_duration_seconds_sum")
    return float(found[1])


def _reloaded(node: Node) -> float:
    """Seconds that the newest reload took until it was proved."""
    lines = (json.loads(line) for line in node.agentd.log_lines() if '"nginx.reloaded"' in line)
    return float(list(lines)[-1]["duration"])


def _rss(node: Node) -> float:
    status = Path(f"/proc/{node.agentd.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _serving(stack: ExitStack, listed: Nginx, directory: Path, certificate: Certificate) -> Row:
    """In turn, so that both meet the same machine; the other nginx has no blacklist at all."""
    directory.mkdir()
    plain = Nginx(directory, certificate)
    plain.seed_tree()
    stack.callback(plain.stop)
    plain.start()
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(1e6 / _requests(listed))
        theirs.append(1e6 / _requests(plain))
    return Row(
        f"time of a request with 1,000,000 entries, p50 of {RUNS}", "us", p50(ours), "no list", p50(theirs),
        1 / 0.85, f"{1e6 / p50(ours):.0f} against {1e6 / p50(theirs):.0f} requests/s",
    )  # fmt: skip


def _requests(nginx: Nginx) -> float:
    """Requests a second, over connections that are kept alive."""
    argv = ["wrk", "-t1", "-c16", "-d2s", f"http://{nginx.address}:{nginx.port}/"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return float(done.stdout.partition("Requests/sec:")[2].split()[0])


# ------------------------------------------------------------------ by hand


def _by_hand(stack: ExitStack, directory: Path, certificate: Certificate) -> Nginx:
    directory.mkdir()
    nginx = Nginx(directory, certificate)
    nginx.seed_tree()
    _write(nginx, b"", 0)
    stack.callback(nginx.stop)
    nginx.start()
    return nginx


def _write(nginx: Nginx, ranges: bytes, number: int) -> None:
    (nginx.conf.parent / f"big{number}.ranges").write_bytes(ranges)
    nginx.configure(http=f'geo $big {{ ranges; default ""; include big{number}.ranges; }}')


def _check_and_hup(nginx: Nginx, ranges: bytes, number: int) -> float:
    """Put the file in place, then check and reload as an operator does, until new workers alone serve."""
    began = time.monotonic()
    _write(nginx, ranges, number + 1)
    argv = [
        nginx.binary,
        "-t",
        "-q",
        "-p",
        str(nginx.directory),
        "-c",
        str(nginx.conf),
        "-e",
        str(nginx.error_log),
    ]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)
    before = nginx.workers()
    os.kill(nginx.master, signal.SIGHUP)
    wait_until(lambda: nginx.workers() and not nginx.workers() & before, "new workers", pause=0.002)
    return time.monotonic() - began
