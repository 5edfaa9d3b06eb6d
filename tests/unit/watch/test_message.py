"""What the fleet's log says of an event: read back as it was written, and above whatever was only heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.watch.changes import Event, Message

_times = st.floats(0, 4e9)
_messages = st.builds(
    Message,
    num=st.integers(1, 10**16),
    issued=_times,
    counts_from=_times,
    publisher=st.text(max_size=9),
    via=st.text(max_size=9),
    expires=st.none() | _times,
    snapshot=st.booleans(),
)


def event(message: Message | None, **more: object) -> Event:
    """One that came through the log, unless there is no message."""
    raw = {"ID": "e1", "Name": "ban", "Payload": "", "LTime": 7, **more}
    return Event("log:ban", raw | {"Message": message.raw}) if message else Event("event", raw, epoch=3)


@given(_messages)
def test_a_message_is_read_back(message: Message) -> None:
    """Through the JSON of an event."""
    assert event(message).message == message


@given(_messages, _messages)
def test_messages_are_ordered_by_number_and_come_after_what_was_heard(one: Message, two: Message) -> None:
    """Whatever the epoch and Lamport time of what was only heard."""
    assert event(None).order < event(one).order
    if one.num < two.num:
        assert event(one).order < event(two).order


def test_what_was_only_heard_has_no_message() -> None:
    """Even if somebody put one into it."""
    heard = event(None, Message=Message(5, 1.0, 1.0).raw)

    assert heard.message is None
    assert not heard.provisional


def test_an_event_that_was_heard_without_the_log_is_provisional() -> None:
    """The log may still give it another place."""
    assert event(None, Provisional=True).provisional
