"""Payloads on the bench: what a handler's author can rely on."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from agentd.handler import Change, Context, Event, Handler, Known, PermanentError, TemporaryError
from agentd.testing import HandlerBench, event


class Load(Handler):
    """Stages what a reference names."""

    def handle(self, change: Change, context: Context) -> None:
        """The payload of the event is the reference."""
        assert isinstance(change, Event)
        known = Known(**context.store.get("known", {}))
        if change.name == "load":
            context.files.write("list", context.fetch(change.payload.decode(), max_size=100).read_bytes())
        elif fetched := context.fetch.if_changed(change.payload.decode(), known):
            context.files.write("list", fetched.path.read_bytes())
            context.store["known"] = {"etag": fetched.known.etag}


@pytest.fixture
def bench() -> HandlerBench:
    """A bench on which https://h/list can be fetched."""
    bench = HandlerBench(Load)
    bench.payloads["https://h/list"] = b"192.0.2.1"
    return bench


def test_a_payload_is_fetched(bench: HandlerBench) -> None:
    """And what was asked for can be looked at."""
    reference = b"https://h/list sha256:" + hashlib.sha256(b"192.0.2.1").hexdigest().encode()
    bench.handle(event("load", reference))
    assert bench.files == {"list": b"192.0.2.1"}
    assert bench.payloads.fetched == [reference.decode()]


@pytest.mark.parametrize(
    "reference", [b"https://h/other", b"nonsense", b"https://h/list sha256:" + b"0" * 64, b"https://h/large"]
)
def test_the_rules_are_the_daemons(bench: HandlerBench, reference: bytes) -> None:
    """What is not there, no reference, not what the digest says, or too large is refused."""
    bench.payloads["https://h/large"] = bytes(101)
    with pytest.raises(PermanentError):
        bench.handle(event("load", reference))


def test_what_is_packed_is_unpacked(bench: HandlerBench) -> None:
    """By its name."""
    bench.payloads["kv:list.gz"] = gzip.compress(b"plain")
    bench.handle(event("load", b"kv:list.gz"))
    assert bench.files == {"list": b"plain"}


def test_an_exception_is_raised(bench: HandlerBench) -> None:
    """To see what a handler does when the network fails."""
    bench.payloads["https://h/list"] = TemporaryError("down")
    with pytest.raises(TemporaryError, match="down"):
        bench.handle(event("load", b"https://h/list"))


def test_what_is_known_is_not_fetched_again(bench: HandlerBench) -> None:
    """Until it changes."""
    assert bench.handle(event("feed", b"https://h/list")) == ("list",)
    bench.payloads["https://h/list"] = b"192.0.2.1"
    assert bench.handle(event("feed", b"https://h/list")) == ()
    bench.payloads["https://h/list"] = b"192.0.2.2"
    assert bench.handle(event("feed", b"https://h/list")) == ("list",)
