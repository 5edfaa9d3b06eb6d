"""Tests a handler: makes changes by hand, and runs one handler in memory as the daemon would.

    harness = HandlerHarness(Motd, {"path": "motd/motd.txt"})
    harness.handle(key("site/motd", b"hello"))
    assert harness.files == {"motd/motd.txt": b"hello"}

It depends on no test framework and needs neither Consul nor nginx.
"""

from __future__ import annotations

from agentd.testing.changes import event, instance, key, keyprefix, message, notification, service
from agentd.testing.harness import HandlerHarness
from agentd.testing.programs import RecordedRun
from agentd.testing.staging import LogLine, StagedFiles

__all__ = [
    "HandlerHarness",
    "LogLine",
    "RecordedRun",
    "StagedFiles",
    "event",
    "instance",
    "key",
    "keyprefix",
    "message",
    "notification",
    "service",
]
