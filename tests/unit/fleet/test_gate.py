"""What a node believes, by its section `trust:`."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from agentd.errors import NoFleetKey, PermanentError, Untrusted
from agentd.fleet.envelope import Draft, Envelope, parse_envelope
from agentd.fleet.gate import Gate
from agentd.fleet.receipt import event_of
from agentd.trust.keyring import Signer
from agentd.trust.keys import new_fleet_key
from agentd.trust.message import Place
from agentd.trust.options import TrustOptions
from agentd.watch.changes import LOG, Event
from tests.unit.trust.samples import CLAIMS, FLEET, OPS, OTHER, PLACE, moved, written

UNSIGNED = Draft(b"x", issued=1.0, publisher="lb1").numbered("production", "deploy", 7, 6)


def gate(*, keys: tuple[Any, ...] = (FLEET,), **more: Any) -> Gate:  # noqa: ANN401 (fields of the section)
    """The gate of a node that knows one publisher."""
    section = {"publishers": {"ops": {"key": OPS.public.text, "may": ["deploy"]}}, "fleet_keys": ["/k"]}
    return Gate(TrustOptions.model_validate(section | more), keys)


def signed(raw: bytes | None = None, **more: Any) -> Envelope:  # noqa: ANN401 (as `written`)
    """A signed message."""
    return parse_envelope(raw or written(**more))


def refused(message: Envelope, by: Gate) -> str:
    """Why it is refused."""
    with pytest.raises(Untrusted) as caught:
        by.admit(message)
    return caught.value.reason


def test_who_signed_a_message_is_known_from_then_on() -> None:
    """By the name that the configuration gives the publisher, not by what the message says of itself."""
    assert gate().admit(signed()).signed_by == "ops"
    event = event_of(gate().admit(signed()), b"", 1.0, live=True)
    assert event.message is not None
    assert event.message.publisher == "ops (ops@admin1)"


def test_without_the_section_every_message_counts() -> None:
    """As before there were signatures; what is sealed cannot be opened."""
    nobody = Gate(None)
    assert nobody.admit(UNSIGNED) is UNSIGNED
    assert nobody.admit(signed(key=OTHER)).signed_by == ""
    assert not nobody.requires_signatures


def test_what_nobody_signed_counts_until_signatures_are_required() -> None:
    """While the publishers change over; a name that is sealed requires them at once."""
    assert gate().admit(UNSIGNED) is UNSIGNED
    assert refused(UNSIGNED, gate(require="signed")) == "unsigned"
    assert refused(UNSIGNED, gate(seal="deploy")) == "unsigned"


@pytest.mark.parametrize("require", [None, "signed"])
def test_a_wrong_signature_is_worse_than_none(require: str | None) -> None:
    """It is refused whatever is required: by a stranger, altered, or from another place."""
    node = gate(require=require)
    assert refused(signed(key=OTHER), node) == "unknown"
    place = PLACE._replace(name="tickets")
    assert refused(signed(place=place), node) == "forbidden"
    for other in (
        PLACE._replace(name="deploy2"), PLACE._replace(fleet="staging"), PLACE._replace(num=PLACE.num + 1),
        PLACE._replace(prev=PLACE.prev - 1),
    ):  # fmt: skip
        assert refused(replace(signed(), signed=moved(written(), other)), node) in ("signature", "forbidden")


def test_a_name_that_is_sealed_takes_nothing_readable() -> None:
    """A publisher whose configuration is old would give the secret away again and again."""
    assert refused(signed(), gate(seal="deploy")) == "clear"
    assert gate(seal="deploy").admit(signed(sealed=True)).signed_by == "ops"


def test_what_was_sealed_for_another_message_is_refused_where_it_can_be_told() -> None:
    """A node without the key waits for it, and tells then."""
    claims = parse_envelope(written(sealed=True)).signed
    assert claims is not None
    there = Place(PLACE.fleet, PLACE.name, PLACE.num + 5, PLACE.num)
    content = {key: claims.claims[key] for key in ("sealed", "key")}
    raw = Signer(OPS).write(there, {**CLAIMS, **content}, None)
    assert refused(signed(raw), gate()) == "sealed"
    assert gate(keys=()).admit(signed(raw)).signed_by == "ops"


# ---------------------------------------------------------------- opening


def journalled(message: Envelope) -> Event:
    """It, as a handler's row in the journal has it."""
    return event_of(message, b"", 1.0, live=True)


def test_the_journal_has_a_sealed_payload_as_it_came() -> None:
    """Only what is handed to the handler is in clear."""
    event = journalled(signed(sealed=True))
    assert "Payload" not in event.raw
    with pytest.raises(PermanentError, match="sealed"):
        _ = event.payload

    opened = gate().opened(event)

    assert opened.payload == b"release-17"
    assert (opened.id, opened.message, opened.order) == (event.id, event.message, event.order)
    assert base64.b64encode(b"release-17").decode() not in str(event.raw)


def test_a_payload_in_clear_needs_no_opening() -> None:
    """It is the same event."""
    event = event_of(signed(), b"release-17", 1.0, live=True)
    assert gate().opened(event) is event


@pytest.mark.parametrize("node", [Gate(None), gate(keys=()), gate(keys=(new_fleet_key(),))])
def test_without_the_key_it_waits(node: Gate) -> None:
    """It may come with the next reload."""
    with pytest.raises(NoFleetKey, match=f"the fleet key {FLEET.kid}, which this node lacks"):
        node.opened(journalled(signed(sealed=True)))


def test_who_is_no_publisher_any_more_is_not_believed_then_either() -> None:
    """The configuration may have changed since the message was queued."""
    node = gate(publishers={"other": {"key": OTHER.public.text, "may": "*"}})
    with pytest.raises(PermanentError, match="not believed: it is signed with the key"):
        node.opened(journalled(signed(sealed=True)))


def test_a_row_cannot_lend_its_number_to_another_message() -> None:
    """Whoever can write the journal needs no more, but a mistake shows."""
    event = journalled(signed(sealed=True))
    with pytest.raises(PermanentError, match="another message"):
        gate().opened(replace(event, index=event.index + 1))
    with pytest.raises(PermanentError, match="not believed"):
        gate().opened(replace(event, raw=event.raw | {"Sealed": "junk"}))


def test_only_the_log_has_sealed_payloads() -> None:
    """An event that was heard cannot pretend to."""
    raw = {"ID": "1", "Name": "deploy", "Sealed": written(sealed=True).decode(), "Payload": None}
    assert Event("event", raw).sealed is None
    assert Event(f"{LOG}deploy", raw).sealed is not None


# ---------------------------------------------------------------- events that were heard


def heard(payload: str | None, name: str = "deploy") -> Event:
    """An event as Consul lists it."""
    return Event("event", {"ID": "1", "Name": name, "Payload": payload})


@pytest.mark.parametrize("kept", [False, True])
def test_with_signatures_required_an_event_says_no_more_than_now(kept: bool) -> None:  # noqa: FBT001 (a parameter)
    """Whoever may fire events cannot choose what is applied."""
    node = gate(require="signed")
    assert "use `agentd publish`" in node.refuses(heard("eA=="), kept=kept)
    assert node.refuses(heard(None), kept=kept) == ""
    assert gate().refuses(heard("eA=="), kept=kept) == ""


def test_what_is_to_be_sealed_is_not_relayed_readably() -> None:
    """Where its name has a log; elsewhere it is only heard, as before."""
    node = gate(seal="deploy")
    assert "readable in the log" in node.refuses(heard("eA=="), kept=True)
    assert node.refuses(heard("eA=="), kept=False) == ""
    assert node.refuses(heard("eA==", "ban"), kept=True) == ""


def test_events_may_be_accepted_for_a_while() -> None:
    """By name, whatever must be signed or sealed."""
    node = gate(require="signed", seal="deploy", accept_events="deploy")
    assert node.refuses(heard("eA=="), kept=True) == ""
    assert node.must_be_signed("deploy")
    assert "use `agentd publish`" in node.refuses(heard("eA==", "ban"), kept=True)


def test_a_daemon_imports_what_verifies_only_with_the_first_signed_message() -> None:
    """Where nothing is signed, nothing of it is paid for."""
    lines = ("import sys, agentd.fleet.fleet, agentd.fleet.gate", "print(*sys.modules)")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    heavy = {f"agentd.trust.{name}" for name in ("claims", "keyring", "message", "paseto", "sodium")}
    assert heavy.isdisjoint(done.stdout.split())
    assert "nacl" not in done.stdout.split()
