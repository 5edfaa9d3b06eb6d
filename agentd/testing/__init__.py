"""What the author of a handler tests with: changes by hand, and a bench on which one handler runs.

    bench = HandlerBench(Motd, {"path": "motd/motd.txt"})
    bench.handle(key("site/motd", b"hello"))
    assert bench.files == {"motd/motd.txt": b"hello"}

It depends on no test framework and needs neither Consul nor nginx.
"""

from __future__ import annotations

from agentd.testing.bench import HandlerBench, RecordedRun
from agentd.testing.changes import event, instance, key, keyprefix, notification, service
from agentd.testing.staging import LogLine, StagedFiles

__all__ = [
    "HandlerBench",
    "LogLine",
    "RecordedRun",
    "StagedFiles",
    "event",
    "instance",
    "key",
    "keyprefix",
    "notification",
    "service",
]
