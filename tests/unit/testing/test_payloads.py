"""Payloads in the harness: what a handler author can rely on."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from agentd.handler import Change, Context, Event, Handler, Known, PermanentError, TemporaryError
from agentd.testing import HandlerHarness, event


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
def harness() -> HandlerHarness:
    """A harness on which https://h/list can be fetched."""
    harness = HandlerHarness(Load)
    harness.payloads["https://h/list"] = b"192.0.2.1"
    return harness


def test_a_payload_is_fetched(harness: HandlerHarness) -> None:
    """And what was asked for can be looked at."""
    reference = b"https://h/list sha256:" + hashlib.sha256(b"192.0.2.1").hexdigest().encode()
    harness.handle(event("load", reference))
    assert harness.files == {"list": b"192.0.2.1"}
    assert harness.payloads.fetched == [reference.decode()]


@pytest.mark.parametrize(
    "reference", [b"https://h/other", b"nonsense", b"https://h/list sha256:" + b"0" * 64, b"https://h/large"]
)
def test_the_rules_are_the_daemons(harness: HandlerHarness, reference: bytes) -> None:
    """What is not there, no reference, not what the digest says, or too large is refused."""
    harness.payloads["https://h/large"] = bytes(101)
    with pytest.raises(PermanentError):
        harness.handle(event("load", reference))


def test_what_is_packed_is_unpacked(harness: HandlerHarness) -> None:
    """By its name."""
    harness.payloads["kv:list.gz"] = gzip.compress(b"plain")
    harness.handle(event("load", b"kv:list.gz"))
    assert harness.files == {"list": b"plain"}


def test_an_exception_is_raised(harness: HandlerHarness) -> None:
    """To see what a handler does when the network fails."""
    harness.payloads["https://h/list"] = TemporaryError("down")
    with pytest.raises(TemporaryError, match="down"):
        harness.handle(event("load", b"https://h/list"))


def test_what_is_known_is_not_fetched_again(harness: HandlerHarness) -> None:
    """Until it changes."""
    assert harness.handle(event("feed", b"https://h/list")) == ("list",)
    harness.payloads["https://h/list"] = b"192.0.2.1"
    assert harness.handle(event("feed", b"https://h/list")) == ()
    harness.payloads["https://h/list"] = b"192.0.2.2"
    assert harness.handle(event("feed", b"https://h/list")) == ("list",)
