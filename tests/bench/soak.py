"""A long run under load and hostility: 15 events a second for 20 minutes, or `--minutes M`.

Beside a good feed there are one that drips and one that is broken in ever new ways; a service has hostile
instances, and Consul's answers odd events and instances; the journal is at its cap; in the first half the
daemon is killed (-9) again and again. Consul, nginx and agentd are real. The second half runs through, so
that what grows shows: a line through the samples of memory and disk may rise by `GROWTH` over that time. What
is late because the daemon is dead, or has just been started, does not count; what is lost does.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agentd.journal.entry import Ending, Outcome
from agentd.journal.journal import Journal
from agentd.testing import event
from tests.bench import ledger
from tests.bench.memory import resident
from tests.bench.rows import Row
from tests.servers.bad_feeds import BadFeeds
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.odd_consul import AS_IT_IS, OddConsul
from tests.servers.ports import free_port
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

MINUTES: Final = float(os.environ.get("SOAK_MINUTES", "20"))
RATE: Final = 15  # events a second; each third blocks an address, the others go into the ledger
TTL: Final = 20  # seconds that an address stays blocked
INTERVAL: Final = 10.0  # seconds between two fetches of a feed, give or take a tenth
VERSION: Final = 25.0  # seconds between two versions of the good feed
LATE: Final = 3.0  # seconds by which an entry may outlive its time
BACK: Final = 5.0  # seconds that a daemon which was started may take until nothing is late any more
LARGEST: Final = 70.0  # megabytes of 10^6 bytes, also of the next two
GROWTH: Final = 1.0
LARGEST_DISK: Final = 40.0
JOURNAL: Final = 8  # megabytes of 2^20 bytes that the journal may have; it begins with more
_LEDGER_EVENT: Final = "ledger"
_MAY_SERVE: Final = frozenset({"192.0.2.1:8080", "192.0.2.5:8080", "192.0.2.77:80", "127.0.0.1:1"})
_HOSTILE: Final = ("127.0.0.1", "169.254.169.254", "224.0.0.1", "::1", "fe80::1%lo", "-oProxyCommand=id")


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Run it, and judge what was seen."""
    soak = Soak(stack, directory)
    soak.run()
    yield from soak.rows()


class Soak:
    """One run: who fires, who kills, who looks on."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.consul = ConsulAgent(directory)
        stack.callback(self.consul.stop)
        self.consul.start()
        self.feeds = BadFeeds(VERSION)
        stack.callback(self.feeds.stop)
        real = (self.consul.address, self.consul.ports["http"])
        proxy = OddConsul((self.consul.address, free_port()), real, AS_IT_IS).start()
        stack.callback(proxy.stop)
        settings = {
            "consul": {"address": f"{proxy.listen[0]}:{proxy.listen[1]}"},
            "sources": {"allow": [self.feeds.url], "max_expanded": "10MiB"},
            "journal": {"max_size": f"{JOURNAL}MiB"},
        }
        self.node = Node(
            directory / "n", make_certificate(directory), number=1, consul=self.consul,
            handlers=self._handlers(), settings=settings,
        )  # fmt: skip
        stack.callback(self.node.stop)
        self.fired: dict[str, tuple[str, float]] = {}  # ID of an event that blocks -> address, unix seconds
        self.numbers = 0
        self.down: list[tuple[float, float]] = []
        self.samples: list[tuple[float, float, float]] = []  # unix seconds, megabytes of memory and disk
        self.overdue = self.feed_late = 0.0
        self.wrong: dict[str, str] = {}  # address -> what was seen of it
        self.hostile: set[str] = set()
        self.failed: list[str] = []
        self._in_force: list[float] = [self.feeds.began]  # since when, and which version of the good feed
        self._over = threading.Event()

    def _handlers(self) -> dict[str, Any]:
        feeds = {
            name: {"reference": f"{self.feeds.url}/{name}", "every": f"{INTERVAL:g}s"}
            for name in ("good", "drip", "broken")
        }
        handlers = main_job(interval="500ms")
        handlers["blacklist"]["options"] = {"lists": feeds}
        ledger_on = [{"event": _LEDGER_EVENT}, {"key": "soak/large"}]
        return handlers | {
            "ledger": {"use": "tests.bench.ledger:Ledger", "on": ledger_on},
            "hostile": {
                "use": "nginx_upstream",
                "on": [{"service": "hostile"}],
                "notify": ["nginx-reload"],
                "options": {"upstream": "hostile", "min_servers": 0, "grace": "0s"},
            },
        }

    # ------------------------------------------------------------------ who does what

    def run(self) -> None:
        """All of it, to the last outcome."""
        fill(self.node.journal)
        self.consul.fire(
            "before", b""
        )  # with nothing but odd events, nobody could say how old the first one is
        for number, address in enumerate(_HOSTILE):
            self._register(f"hostile{number}", address, 8500)
        self.node.start()
        self.began = time.time()
        self.half, self.end = self.began + MINUTES * 30, self.began + MINUTES * 60
        others = [
            threading.Thread(target=self._guarded, args=(one,))
            for one in (self._kill, self._look, self._churn)
        ]
        for thread in others:
            thread.start()
        self._fire()
        self._over.set()
        for thread in others:
            thread.join()
        wanted = f"{self.numbers} 0 0"
        with suppress(TimeoutError):  # the rows say what is missing
            wait_until(lambda: self._ledger() == wanted, "the ledger", seconds=30, pause=0.5)

    def _guarded(self, work: Any) -> None:  # noqa: ANN401 (one of the methods below)
        try:
            work()
        except Exception as error:  # noqa: BLE001 (a soak that has stopped looking must not pass)
            self.failed.append(f"{work.__name__}: {type(error).__name__}: {error}")
            traceback.print_exc()

    def _fire(self) -> None:
        for number in range(int(MINUTES * 60 * RATE)):
            if number % 3:
                self.consul.fire(_LEDGER_EVENT, str(self.numbers).encode())
                self.numbers += 1
            else:
                address = f"45.{number // 3 // 250}.{number // 3 % 250}.1"
                before = time.time()
                self.fired[self.consul.fire(BLACKLIST_EVENT, f"add {address} {TTL}s".encode())] = (
                    address,
                    before,
                )
            time.sleep(max(0.0, self.began + (number + 1) / RATE - time.time()))

    def _kill(self) -> None:
        """About once a minute until the first half is over, and twice at least."""
        times = max(2, round(MINUTES / 2))
        span = (self.half - self.began) / times
        for number in range(times):
            at = self.began + span * (number + random.uniform(0.2, 0.6))
            if self._over.wait(max(0.0, at - time.time())):
                return
            self.node.agentd.kill()
            killed = time.time()
            self.down.append((killed, self.end))
            self.node.agentd.start()
            self.down[-1] = killed, time.time()

    def _churn(self) -> None:
        """A good instance comes and goes; a key with large values keeps the journal full."""
        number = 0
        while not self._over.wait(1.0):
            number += 1
            self.consul.kv_put("soak/large", base64.b64encode(random.randbytes(60_000)))
            if number % 10 == 0:
                self._register("good", "192.0.2.77", 80)
            elif number % 10 == 5:
                self.consul.deregister("good")

    def _register(self, identity: str, address: str, port: int) -> None:
        service = {"Name": "hostile", "ID": identity, "Address": address, "Port": port}
        self.consul.put("/v1/agent/service/register", service)

    # ------------------------------------------------------------------ what is seen

    def _look(self) -> None:
        minute = 0
        while not self._over.wait(0.5):
            now = time.time()
            if self._up(now - BACK, now):
                self._look_at_blacklist(now)
                self._look_at_feed(now)
                self._look_at_servers()
            if now >= self.half:
                self.samples.append((now, self._memory(), self._disk()))
            if now - self.began >= 60 * (minute + 1):
                minute += 1
                print(self._progress(minute), file=sys.stderr, flush=True)

    def _up(self, begin: float, end: float) -> bool:
        return all(killed > end or back < begin for killed, back in self.down)

    def _look_at_blacklist(self, now: float) -> None:
        text = self.node.read("blacklist/ipv4.ranges").decode()
        blocked = set(re.findall(r"^(45\.\d+\.\d+\.1)[-/ ]", text, re.MULTILINE))
        for address, fired in list(self.fired.values()):
            age = now - fired
            if address in blocked:
                self.overdue = max(self.overdue, age - TTL)
            elif LATE < age < TTL - 1 and self._up(fired - 1, now):
                self.wrong[address] = f"{address} was not blocked {age:.1f} s after it was fired"
            if TTL / 2 < age < TTL / 2 + 0.5 and self._up(fired, now):
                self._expect(address, blocked=True)

    def _look_at_feed(self, now: float) -> None:
        """How far what is in force lags behind what the feed serves, beyond its interval.

        A fetch that a kill cut short is made up for an interval after the start, so that it cannot be what
        kills the daemon, over and over: lateness begins anew with each start.
        """
        try:
            text = self.node.read("blacklist/lists/good.plain").decode()
        except FileNotFoundError:  # not loaded yet
            text = ""
        version = self.feeds.version
        listed = [one for one in range(version + 1) if self.feeds.address(one) in text]
        started = max((back for _, back in self.down), default=self.began)
        late = now - max(started, self.feeds.replaced(listed[-1] if listed else -1))
        self.feed_late = max(self.feed_late, late - 1.1 * INTERVAL)
        if listed[-1:] != self._in_force[1:]:
            self._in_force = [now, *listed[-1:]]
        elif listed and late < -1 and now > self._in_force[0] + LATE:  # nginx has reloaded since
            self._expect(self.feeds.address(listed[-1]), blocked=True)
            self._expect("45.200.7.1", blocked=True)
            self._expect("8.8.8.8", blocked=False)

    def _expect(self, address: str, *, blocked: bool) -> None:
        """What nginx serves, if the daemon is not just about to change it."""
        status = 0
        with suppress(OSError):
            status, _ = self.node.nginx.get(client=address)
        if (status == 403) is not blocked:
            self.wrong[address] = f"nginx answered {status} to {address}"

    def _look_at_servers(self) -> None:
        text = self.node.read("upstreams/hostile.conf").decode()
        self.hostile |= set(re.findall(r"^\s*server (\S+?)[ ;]", text, re.MULTILINE)) - _MAY_SERVE

    def _memory(self) -> float:
        return resident(self.node.agentd.process.pid, descendants=False) / 1e6

    def _disk(self) -> float:
        """What agentd has written, without its log; a file with several names counts once."""
        sizes: dict[int, int] = {}
        for place in (self.node.directory / "state", self.node.nginx.tree):
            for directory, _, names in os.walk(place):
                for name in names:
                    with suppress(FileNotFoundError):
                        found = Path(directory, name).lstat()
                        sizes[found.st_ino] = found.st_blocks * 512
        return sum(sizes.values()) / 1e6

    def _progress(self, minute: int) -> str:
        return (
            f"minute {minute}: {self._memory():.1f} MB of memory, {self._disk():.1f} MB of disk,"
            f" {self.numbers + len(self.fired)} events, {len(self.down)} kills, feed at most"
            f" {self.feed_late:.1f} s late, {len(self.wrong)} addresses wrong"
        )

    def _ledger(self) -> str:
        try:
            return self.node.read(ledger.PATH).decode().strip()
        except FileNotFoundError:  # nothing was ever applied
            return "0 0 0"

    # ------------------------------------------------------------------ how it is judged

    def rows(self) -> Iterator[Row]:
        """Each promise, with what was seen."""
        events = f"{self.numbers + len(self.fired)} events in {MINUTES:g} minutes, {len(self.down)} kills"
        next_one, again, ahead = map(int, self._ledger().split())
        yield Row(f"{events}: lost", "", self.numbers - next_one - ahead, "", None, 0, f"of {self.numbers}")
        yield Row(f"{events}: applied twice", "", again, "", None, 0)
        delays = self._delays()
        note = (
            f"n={len(delays)}, p50 {statistics.median(delays):.2f} s, most {delays[-1]:.2f} s"
            if delays
            else "none"
        )
        p99 = delays[int(len(delays) * 0.99)] if delays else float("inf")
        yield Row("add fired -> live in nginx, p99 while the daemon runs", "s", p99, "", None, 1.0, note)
        note = ", ".join(f"{len(times)} times {path}" for path, times in self.feeds.asked.items())
        yield Row(
            "good feed: behind its schedule, at most", "s", max(0.0, self.feed_late), "", None, INTERVAL, note
        )
        yield Row("entry outlived its time, at most", "s", max(0.0, self.overdue), "", None, LATE)
        yield Row(
            "wrong in nginx or its files",
            "",
            len(self.wrong),
            "",
            None,
            0,
            "; ".join([*self.wrong.values()][:2]),
        )
        yield Row(
            "hostile instances served", "", len(self.hostile), "", None, 0, ", ".join(sorted(self.hostile))
        )
        times, memory, disk = zip(
            *self.samples or [(self.half, LARGEST, 0.0), (self.end, 0.0, 0.0)], strict=True
        )
        yield Row("resident memory", "MB", max(memory), "", None, LARGEST)
        yield Row("resident memory, rise over the second half", "MB", _rise(times, memory), "", None, GROWTH)
        yield Row("disk: state and tree", "MB", max(disk), "", None, LARGEST_DISK)
        yield Row("disk, rise over the second half", "MB", _rise(times, disk), "", None, GROWTH)
        size = sum(path.stat().st_size for path in self.node.journal.parent.glob("journal.db*")) / 2**20
        yield Row("journal, which was full from the start", "MiB", size, "", None, JOURNAL)
        for what in ("journal_dropped", "watch_dropped"):
            yield Row(f"nothing was counted in agentd_{what}_total", "", not self._counted(what), "", None, 0)
        yield Row("parts of the soak that failed", "", len(self.failed), "", None, 0, "; ".join(self.failed))

    def _counted(self, name: str) -> float:
        """A counter's sum over all its labels, since the last start."""
        _, text = self.node.agentd.get("/metrics")
        return sum(map(float, re.findall(rf"^agentd_{name}_total\{{.*\}} (\S+)$", text, re.MULTILINE)))

    def _delays(self) -> list[float]:
        """From fired to the line of the outcome, sorted; without those that a kill held up."""
        found = []
        for line in self.node.agentd.log_lines():
            with suppress(ValueError, KeyError):
                told = json.loads(line)
                if told["event"] == "handler.applied" and told["handler"] == "blacklist":
                    _, fired = self.fired[told["change"]]
                    done = datetime.fromisoformat(told["timestamp"]).timestamp()
                    if self._up(fired - BACK, done):
                        found.append(done - fired)
        return sorted(found)


def fill(file: Path) -> None:
    """Write the journal of a node that had more than `JOURNAL` to remember, with nothing left to do."""
    journal = Journal(file)
    payload = random.randbytes(400)
    every = [event(_LEDGER_EVENT, payload, ltime=number) for number in range(JOURNAL * 1000)]
    journal.receive([(one, ["earlier"]) for one in every], listed=[])
    while waiting := journal.pending("earlier"):
        journal.end(Ending(one, Outcome.APPLIED) for one in waiting)
    journal.close()


def _rise(times: tuple[float, ...], values: tuple[float, ...]) -> float:
    """By how much a straight line through the samples rises over their time; 0 if it falls."""
    slope = statistics.linear_regression(times, values).slope
    return max(0.0, slope * (times[-1] - times[0]))
