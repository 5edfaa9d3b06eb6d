"""How many modules one ticket-key event passes, and how often it crosses from one into another.

The daemon runs in this process under a profiler that sees every call of a Python function, from the first one
after the poller's answer to the last outcome that is reported. Only modules of agentd and of its handlers
count, and only in the threads of the event's poller and of the two handlers. The least of several events is
taken, since a look at nginx that comes too early is repeated. The calls are left in $TMPDIR/agentd-trace.txt.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from agentd.agent import Agent
from agentd.config.load import load
from tests.bench.rows import Row
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import TICKET_EVENT, Node, main_job
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

EVENTS = 7
INTERVAL = 1.1  # longer than the reload handler's, which would otherwise wait
MODULES, CHANGES = 35, 450
_ROOMS = ("agentd.", "handlers.")
_LAST = ("agentd.report.reporter", "ended")
_POLLER = "poll event"
_THREADS = (_POLLER, "handler ticket-keys", "handler nginx-reload")


@dataclass
class Trace:
    """The calls that one event caused, in order: (thread, module, function)."""

    calls: list[tuple[str, str, str]] = field(default_factory=list)

    def end(self) -> Trace:
        """Forget what came after the last report of an outcome."""
        last = max(at for at, call in enumerate(self.calls) if call[1:] == _LAST)
        return Trace(self.calls[: last + 1])

    @property
    def modules(self) -> set[str]:
        """All that were entered."""
        return {module for _, module, _ in self.calls}

    @property
    def functions(self) -> set[tuple[str, str]]:
        """All that were called."""
        return {(module, name) for _, module, name in self.calls}

    @property
    def changes(self) -> int:
        """How often a thread called a function of another module than the one that it called before."""
        found, here = 0, dict.fromkeys(_THREADS, "")
        for thread, module, _ in self.calls:
            found += here[thread] not in ("", module)
            here[thread] = module
        return found


class Profiler:
    """Records while `trace` is set."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """See `sys.setprofile`."""
        trace, module = self.trace, str(frame.f_globals.get("__name__", ""))
        if trace is None or event != "call" or not module.startswith(_ROOMS):
            return
        thread = threading.current_thread().name.removesuffix(" call")
        if thread in _THREADS and (trace.calls or thread == _POLLER):
            trace.calls.append((thread, module, frame.f_code.co_name))


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Rotate a key some times, and count."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = Node(
        directory / "n", make_certificate(directory), number=1, consul=consul,
        handlers=main_job(promote_after="0s"),
        settings={"log": {"level": "error"}, "status": {"address": None}},
    )  # fmt: skip
    stack.callback(node.stop)
    profiler = Profiler()
    threading.setprofile(profiler)
    stack.callback(threading.setprofile, None)
    agent = Agent(load(node.configuration))
    daemon = threading.Thread(target=agent.run, name="agent")
    daemon.start()
    stack.callback(daemon.join)
    stack.callback(agent.commands.put, "stop")
    wait_until((node.nginx.tree / "current").exists, "the first files")
    node.nginx.start()
    wait_until(lambda: not _open(node), "the first proof")
    traces = [_trace(profiler, node) for _ in range(EVENTS)]
    least = min(traces, key=lambda trace: trace.changes)
    (directory.parent / "agentd-trace.txt").write_text("\n".join(" ".join(call) for call in least.calls))
    yield Row(
        "modules that one ticket-key event passes", "", len(least.modules), "", None, MODULES,
        f"{len(least.functions)} functions, {len(least.calls)} calls",
    )  # fmt: skip
    yield Row("changes of module of one ticket-key event", "", least.changes, "", None, CHANGES)


def _trace(profiler: Profiler, node: Node) -> Trace:
    time.sleep(INTERVAL)
    profiler.trace = trace = Trace()
    event = node.fire(TICKET_EVENT, base64.b64encode(os.urandom(48)))
    node.outcome(event)
    wait_until(lambda: not _open(node), "the end of the reload")
    time.sleep(0.1)  # the last outcome is reported after it is written down
    profiler.trace = None
    return trace.end()


def _open(node: Node) -> list[dict[str, object]]:
    return [entry for entry in node.history() if entry["outcome"] is None]
