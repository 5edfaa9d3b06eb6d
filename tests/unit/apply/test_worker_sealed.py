"""A worker hands on what came sealed, and nothing that is stored says it in clear."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from structlog.testing import capture_logs

from agentd.errors import JournalError
from agentd.fleet.envelope import parse_envelope
from agentd.fleet.gate import Gate
from agentd.fleet.receipt import event_of
from agentd.handler import Change, Context, Event, PermanentError, TemporaryError
from agentd.journal.followed import Followed
from agentd.journal.history import history, replay
from agentd.journal.payloads import forget_replaced
from agentd.trust.keys import FleetKey, new_fleet_key
from agentd.trust.options import TrustOptions
from tests.unit.apply.stand import Scribe, Stand, settle
from tests.unit.trust.samples import FLEET, OPS, PLACE, written

PAYLOAD = b"write x=0123456789abcdef"


def gate(*keys: FleetKey) -> Gate:
    """What a node with these keys of the fleet believes."""
    section = {"publishers": {"ops": {"key": OPS.public.text, "may": "*"}}}
    return Gate(TrustOptions.model_validate(section), keys)


def give(stand: Stand, payload: bytes = PAYLOAD, more: int = 0, key: FleetKey = FLEET) -> Event:
    """Queue a sealed message, as the follower does."""
    place = PLACE._replace(num=PLACE.num + more)
    message = parse_envelope(written(payload, sealed=True, place=place, fleet_key=key))
    event = event_of(message, b"", stand.clock(), live=True)
    Followed(stand.journal).give("deploy", {"scribe": False}, [event], upto=event.index)
    return event


def stored(directory: Path, needle: bytes) -> list[str]:
    """The files of the journal that contain this, raw or in base64."""
    return [path.name for path in directory.glob("journal.db*") if needle in path.read_bytes()]


def test_a_sealed_message_is_handled_and_stays_sealed(stand: Stand) -> None:
    """Neither the entry nor what is kept of it for a replay has the payload."""
    scribe = Scribe()
    worker = stand.worker(scribe, opened=gate(FLEET).opened)
    event = give(stand)
    settle(worker)

    assert scribe.calls == [PAYLOAD.decode()]
    assert stand.outcomes == {event.id: "applied"}
    assert stored(stand.journal.path.parent, PAYLOAD) == []
    assert stored(stand.journal.path.parent, b"d3JpdGUgeD0w") == []  # its base64


def test_it_can_be_replayed(stand: Stand) -> None:
    """For as long as the journal has it."""
    scribe = Scribe()
    worker = stand.worker(scribe, opened=gate(FLEET).opened)
    event = give(stand)
    settle(worker)
    replay(stand.journal, event.id)
    settle(worker)
    assert scribe.calls == [PAYLOAD.decode()] * 2


def test_without_the_key_it_waits(stand: Stand) -> None:
    """The handler is not called, and what comes after it waits: their order counts."""
    scribe = Scribe()
    worker = stand.worker(scribe, opened=gate().opened)
    event = give(stand)
    give(stand, b"write y=1", more=1)
    settle(worker)

    assert scribe.calls == []
    assert set(stand.outcomes.values()) == {None}
    assert f"the fleet key {FLEET.kid}" in stand.reason(event.id)


def test_it_is_applied_once_the_key_is_back(stand: Stand) -> None:
    """However long that takes: attempts count only if the change may be at fault."""
    worker = stand.worker(Scribe(), opened=gate().opened)
    event = give(stand)
    for _ in range(20):
        stand.clock.now += 60
        settle(worker)
    assert stand.outcomes == {event.id: None}

    scribe = Scribe()
    stand.clock.now += 60
    settle(stand.worker(scribe, opened=gate(FLEET).opened))

    assert scribe.calls == [PAYLOAD.decode()]
    assert stand.outcomes == {event.id: "applied"}


def test_what_came_before_it_is_committed(stand: Stand) -> None:
    """It holds up only what comes after it."""
    scribe = Scribe()
    worker = stand.worker(scribe, opened=gate(FLEET).opened)
    first = give(stand)
    other = give(stand, more=1, key=new_fleet_key())
    settle(worker)

    assert scribe.calls == [PAYLOAD.decode()]
    assert stand.outcomes == {first.id: "applied", other.id: None}


class Orders(Scribe):
    """What it does cannot be undone."""

    side_effects: ClassVar[bool] = True


def test_an_order_that_cannot_be_opened_has_not_begun(stand: Stand) -> None:
    """The history must not say that its program may have run."""
    worker = stand.worker(Orders(), opened=gate().opened)
    give(stand)
    settle(worker)
    assert [row["started"] for row in history(stand.journal)] == [None]


def test_what_is_not_believed_any_more_is_refused(stand: Stand) -> None:
    """The publisher is gone from the configuration since it was queued."""
    scribe = Scribe()
    worker = stand.worker(scribe, opened=Gate(TrustOptions(), (FLEET,)).opened)
    event = give(stand)
    settle(worker)

    assert stand.outcomes == {event.id: "refused"}
    assert "not believed" in stand.reason(event.id)


class Quoting(Scribe):
    """Refuses, postpones or fails with what it was given."""

    def __init__(self, error: type[Exception], text: str) -> None:
        super().__init__()
        self._error = error
        self._text = text

    def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (the interface)
        """See the class."""
        raise self._error(self._text)


@pytest.mark.parametrize("error", [PermanentError, TemporaryError, ValueError])
@pytest.mark.parametrize("quoted", ["0123456789abcdef", "cdef", base64.b64encode(PAYLOAD).decode()])
def test_a_reason_does_not_quote_what_came_sealed(
    stand: Stand, error: type[Exception], quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes to the journal, the log, and with the acknowledgement to Consul."""
    with capture_logs() as logs:
        worker = stand.worker(Quoting(error, f"line 1: {quoted!r} is not known"), opened=gate(FLEET).opened)
        event = give(stand)
        settle(worker)

    assert stand.reason(event.id)
    assert quoted not in stand.reason(event.id) + str(logs) + "".join(capsys.readouterr())
    assert stored(stand.journal.path.parent, quoted.encode()) == []


def test_a_reason_that_quotes_nothing_is_told(stand: Stand) -> None:
    """Also of what came sealed."""
    worker = stand.worker(Quoting(PermanentError, "the key has 27 bytes"), opened=gate(FLEET).opened)
    event = give(stand)
    settle(worker)
    assert stand.reason(event.id) == "the key has 27 bytes"


class Newest(Scribe):
    """The last event makes the others void; remembers the payloads that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:
        """See the class."""
        assert context.handler == "scribe"
        self.asked = [one.payload for one in waiting]
        return {one.id: waiting[-1].id for one in waiting[:-1]}


def test_what_supersedes_what_is_asked_with_the_payloads(stand: Stand) -> None:
    """Under the IDs of the entries."""
    scribe = Newest()
    worker = stand.worker(scribe, opened=gate(FLEET).opened)
    first, last = give(stand), give(stand, b"write y=1", more=1)
    settle(worker)

    assert scribe.asked[:2] == [PAYLOAD, b"write y=1"]
    assert stand.outcomes == {first.id: "expired", last.id: "applied"}


def test_what_cannot_be_opened_supersedes_nothing(stand: Stand) -> None:
    """It is told when its turn has come."""
    scribe = Newest()
    worker = stand.worker(scribe, opened=gate().opened)
    give(stand)
    settle(worker)
    assert scribe.asked == []


def test_a_message_that_a_newer_one_replaced_is_wiped(stand: Stand) -> None:
    """Of a name of which the newest counts: whoever gets the fleet key later could open it."""
    worker = stand.worker(Scribe(), opened=gate(FLEET).opened)
    events = [give(stand, more=more) for more in range(2)]
    settle(worker)
    waits = give(stand, more=2)
    sealed = [(event.sealed or "")[-200:-100].encode() for event in (*events, waits)]

    forget_replaced(stand.journal, "scribe", "deploy")

    assert [bool(stored(stand.journal.path.parent, one)) for one in sealed] == [False, True, True]
    replay(stand.journal, events[1].id)
    with pytest.raises(JournalError, match="wiped"):
        replay(stand.journal, events[0].id)


def test_a_message_that_was_refused_replaces_nothing(stand: Stand) -> None:
    """What is in force stays until another is."""
    scribe = Scribe()
    scribe.raises = {"nonsense": [PermanentError("no")]}
    worker = stand.worker(scribe, opened=gate(FLEET).opened)
    first = give(stand)
    settle(worker)
    give(stand, b"nonsense", more=1)
    settle(worker)

    forget_replaced(stand.journal, "scribe", "deploy")

    assert stored(stand.journal.path.parent, (first.sealed or "")[-200:-100].encode())
