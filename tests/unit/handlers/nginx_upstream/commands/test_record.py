"""The record of a rolling in KV: written under the lock, read by whoever goes on."""

from __future__ import annotations

import base64
import json

import pytest

from agentd.errors import AgentdError, LockLost
from agentd.locks.lock import Lock
from handlers.nginx_upstream.commands.record import Record, RecordKey, _record
from tests.unit.locks.fake import FakeConsul, FakeStore

RECORD = Record("app", "d1", done=("10.0.0.1:80",), failed=(), taken_down=("10.0.0.2:80",))


@pytest.fixture
def consul() -> FakeConsul:
    """In memory."""
    return FakeConsul()


def test_nothing_is_left_by_default(consul: FakeConsul) -> None:
    """A first deployment starts from nothing."""
    store = FakeStore(consul)
    assert RecordKey(store, Lock(store, "p")).read() is None


def test_what_was_written_is_json_of_the_record(consul: FakeConsul) -> None:
    """The fake keeps a transaction's value in base64, as it is sent."""
    store = FakeStore(consul)
    with Lock(store, "p") as lock:
        key = RecordKey(store, lock)
        key.write(RECORD)
    assert key.key == "p/rolling"
    assert _record(json.loads(base64.b64decode(consul.pairs["p/rolling"].value))) == RECORD


def test_without_the_lock_nothing_is_written(consul: FakeConsul) -> None:
    """Another may be at it."""
    store = FakeStore(consul)
    key = RecordKey(store, Lock(store, "p"))
    with pytest.raises(LockLost):
        key.write(RECORD)
    with pytest.raises(LockLost):
        key.delete()
    assert "p/rolling" not in consul.pairs


def written(server: object) -> bytes:
    """A record of one server."""
    raw = {"servers": "app", "command": "", "done": [], "failed": [], "taken_down": [server]}
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"{}", b"[]", b"null", b'{"servers": 1, "command": "", "done": 3}', b"[" * 100_000),
        b'{"servers": "", "command": "", "done": ' + b"9" * 5000 + b"}",
        *map(written, ("$(id)", "10.0.0.1:80 --on x", "10.0.0.1:80\x1b[2J", 7, None)),
    ],
)
def test_something_else_under_the_key_is_refused(consul: FakeConsul, value: bytes) -> None:
    """It is the operator's to look at."""
    store = FakeStore(consul)
    consul.put("p/rolling", value)
    with pytest.raises(AgentdError, match="is not the record of a rolling deployment"):
        RecordKey(store, Lock(store, "p")).read()
