"""The ticket key handler on the harness: files, include, store, refusals, timed steps."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import ValidationError

from agentd.handler import Event, PermanentError, Verdict
from agentd.testing import HandlerHarness, event, key, notification
from handlers.tls_ticket_keys import TicketKeys

INCLUDE = "tickets/tickets.conf"
SECRETS = [random.Random(seed).randbytes(48) for seed in range(8)]


def rotation(number: int, *, ltime: int | None = None) -> Event:
    """The event that brings secret `number`."""
    payload = base64.b64encode(SECRETS[number])
    return event("tls-session-ticket-refresh", payload, ltime=number + 1 if ltime is None else ltime)


def harness(**options: object) -> HandlerHarness:
    """A node that has started and has its initial key."""
    made = HandlerHarness(TicketKeys, options)
    made.initial()
    return made


def ring(node: HandlerHarness) -> list[bytes]:
    """The secrets that nginx loads, in order: the first encrypts."""
    lines = node.files[INCLUDE].decode().splitlines()
    paths = [line.removeprefix("ssl_session_ticket_key agentd/current/").removesuffix(";") for line in lines]
    return [node.files[path] for path in paths]


def test_initial_key() -> None:
    """Before any event there is one random key of 80 bytes, readable by its owner alone."""
    node = harness()

    [secret] = ring(node)
    [path] = [path for path in node.files if path != INCLUDE]
    assert len(secret) == 80
    assert node.modes[path] == 0o600


def test_initial_keys_differ() -> None:
    """Every node makes its own random key."""
    assert ring(harness()) != ring(harness())


def test_restart_changes_nothing() -> None:
    """A second start finds its ring and leaves every file as it is."""
    node = harness()
    node.handle(rotation(0))
    node.restart()

    assert node.initial() == ()


def test_a_key_of_a_new_epoch_is_promoted_whatever_its_time() -> None:
    """Consul's data was lost, and its Lamport time and indexes began again."""
    node = harness(promote_after="60s")
    node.handle(rotation(0, ltime=500))
    node.advance(60)

    node.handle(replace(rotation(1, ltime=2), epoch=1))
    node.advance(60)
    by_event = ring(node)[0]
    node.handle(replace(key("tickets", base64.b64encode(SECRETS[2]), index=1), epoch=2))
    node.advance(60)

    assert (by_event, ring(node)[0]) == (SECRETS[1], SECRETS[2])


def test_an_event_without_date_brings_no_retired_key_back() -> None:
    """Journal and what it knew of the ring are lost; the tree is of an agentd that counted no epochs."""
    node = harness(promote_after="60s")
    node.handle(rotation(5))
    node.advance(60)
    for stored in node.store["ring"]:
        del stored["epoch"]

    node.handle(replace(rotation(1), undated=True))
    node.advance(3600)

    assert ring(node)[0] == SECRETS[5]


def test_new_key_only_decrypts_at_first() -> None:
    """A new key stands behind the one that encrypts."""
    node = harness()
    [random_key] = ring(node)

    node.handle(rotation(0))

    assert ring(node) == [random_key, SECRETS[0]]


def test_promoted_on_time_after_a_restart() -> None:
    """A restart in between does not put the promotion off."""
    node = harness(promote_after="60s")
    [random_key] = ring(node)
    node.handle(rotation(0))
    node.advance(40)
    node.restart()
    node.initial()

    node.advance(19)
    before = ring(node)
    node.advance(1)

    assert before == [random_key, SECRETS[0]]
    assert ring(node) == [SECRETS[0], random_key]


def test_promoted_at_once() -> None:
    """With `promote_after: 0` the new key encrypts in the commit that brought it."""
    node = harness(promote_after=0)

    node.handle(rotation(0))

    assert ring(node)[0] == SECRETS[0]
    assert node.generation == 2


def test_retired_on_time() -> None:
    """A demoted key is removed with its file once `retire_after` has passed."""
    node = harness(promote_after="60s", retire_after="1h")
    node.handle(rotation(0))

    node.advance(60 + 3599)
    before = len(ring(node))
    node.advance(1)

    assert before == 2
    assert ring(node) == [SECRETS[0]]
    assert sorted(node.files) == sorted({INCLUDE, *(k["path"] for k in node.store["ring"])})
    assert node.next_due is None


def test_same_event_content_again() -> None:
    """The same key in another event changes no file."""
    node = harness()
    node.handle(rotation(0))

    assert node.handle(rotation(0, ltime=7)) == ()


def test_two_events_in_either_order() -> None:
    """Two nodes that received two events in different orders end with the same files."""
    nodes = [harness(promote_after="60s", retire_after="1h") for _ in range(2)]
    nodes[0].handle(rotation(0))
    nodes[1].handle(rotation(1))
    for node in nodes:
        node.advance(1)
    nodes[0].handle(rotation(1))
    nodes[1].handle(rotation(0))

    for node in nodes:
        node.advance(60)

    assert [ring(node)[0] for node in nodes] == [SECRETS[1], SECRETS[1]]
    assert [set(ring(node)) >= set(SECRETS[:2]) for node in nodes] == [True, True]
    for node in nodes:
        node.advance(3600)
    assert nodes[0].files == nodes[1].files


def test_a_burst_stays_bounded() -> None:
    """More keys than `keep` in one batch leave the newest ones only, and no stray file."""
    node = harness(promote_after=0, keep=2)

    node.handle(*(rotation(number) for number in range(8)))

    assert ring(node) == [SECRETS[7], SECRETS[6], SECRETS[5]]
    assert len(node.files) == 4


def test_key_older_than_all_that_are_kept() -> None:
    """A late event whose key has no place in the ring leaves the tree as it is, and says so."""
    node = harness(promote_after=0, keep=1)
    node.handle(rotation(5), rotation(6))

    assert node.handle(rotation(0)) == ()
    assert node.log[-1].event == "ticket_key.too_old"


def test_same_name_with_another_secret_is_refused() -> None:
    """A key whose name the ring has with another secret changes nothing."""
    node = harness()
    node.handle(rotation(0))
    before = node.files
    clash = SECRETS[0][:16] + SECRETS[1][16:]

    with pytest.raises(PermanentError, match="same name"):
        node.handle(event("rotate", base64.b64encode(clash), ltime=9))

    assert node.files == before


def test_one_bad_payload_stages_nothing() -> None:
    """A batch with a bad payload leaves files and store as they were."""
    node = harness()
    files, store = node.files, node.store

    with pytest.raises(PermanentError, match="47 bytes"):
        node.handle(rotation(0), event("rotate", base64.b64encode(SECRETS[1][:47])))

    assert (node.files, node.store) == (files, store)


def test_key_from_the_kv_store() -> None:
    """A KV key brings a ticket key as an event does."""
    node = harness(promote_after=0)

    node.handle(key("fleet/ticket-key", base64.b64encode(SECRETS[0]), index=12))

    assert ring(node)[0] == SECRETS[0]


def test_newer_kv_value_wins() -> None:
    """Of two values of a KV key the one written later encrypts, in whichever order they come."""
    node = harness(promote_after=0)

    node.handle(key("k", SECRETS[1], index=20), key("k", SECRETS[0], index=12))

    assert ring(node)[:2] == [SECRETS[1], SECRETS[0]]


def test_deleted_kv_key() -> None:
    """Deleting the KV key takes no key away."""
    node = harness()

    assert node.handle(key("fleet/ticket-key", None)) == ()


def test_other_changes_are_refused() -> None:
    """A change that carries no key is refused, and the refusal says which kinds are taken."""
    with pytest.raises(PermanentError, match="takes events and keys"):
        harness().handle(notification(1, "other"))


def test_lost_key_file() -> None:
    """If a key file is gone at the start, the include no longer names it and nginx still loads."""
    node = harness()
    node.handle(rotation(0))
    lost = next(k["path"] for k in node.store["ring"])
    del node._files[lost]
    node.restart()

    node.initial()

    assert ring(node) == [SECRETS[0]]


@pytest.mark.parametrize("encoded", [bytes.hex, lambda data: base64.b64encode(data).decode()])
def test_no_secret_in_store_or_log(encoded: Callable[[bytes], str]) -> None:
    """The store and the log hold no piece of a secret; the key's name is no secret."""
    node = harness(keep=1, promote_after=0)
    node.handle(rotation(3), rotation(4), rotation(0))

    said = json.dumps(node.store) + repr(node.log)

    for secret in (SECRETS[0], SECRETS[3], SECRETS[4], *ring(node)):
        assert encoded(secret[18:30]) not in said


def test_gauges() -> None:
    """The store publishes since when the encrypting key encrypts."""
    node = harness(promote_after=0)
    node.advance(10)

    node.handle(rotation(0))

    assert [part["part"] for part in node.store["status"]][:1] == ["encrypting key"]
    assert len(node.store["status"]) == len(node.store["ring"])
    assert node.store["gauges"] == {
        "tls_ticket_key_promoted_timestamp_seconds": node.now,
        "tls_ticket_key_oldest_timestamp_seconds": node.now - 10,
        "tls_ticket_keys": 2,
    }


def test_options_refuse_zero_keep() -> None:
    """At least one demoted key is kept, or every rotation would end all sessions."""
    with pytest.raises(ValueError, match="keep"):
        HandlerHarness(TicketKeys, {"keep": 0})


def test_a_probe_that_cannot_be_read_is_refused() -> None:
    """With what to write instead."""
    with pytest.raises(ValidationError, match=r"'10\.0\.0\.1' has no port: write it as 10\.0\.0\.1:443"):
        harness(probe=["except *:443", "10.0.0.1"])


def test_listeners_are_asked_as_often_as_the_operator_wants() -> None:
    """Once a minute by default."""
    assert [harness().handler.verify_every, harness(verify_every="5m").handler.verify_every] == [60, 300]


def test_without_a_ring_nobody_is_asked() -> None:
    """Before the first commit there is nothing to compare with."""
    assert HandlerHarness(TicketKeys).verify() == Verdict()


def test_nodes_with_the_same_newest_key_have_the_same_fingerprint() -> None:
    """Older keys are a node's own: it made one at its first start, and was not there for others."""
    first, joiner = harness(), harness()
    assert first.fingerprint() != joiner.fingerprint()
    first.handle(rotation(0))
    first.advance(3600)
    for node in (first, joiner):
        node.handle(rotation(1))
        node.advance(60)

    assert first.fingerprint() == joiner.fingerprint()
    first.handle(rotation(2))
    assert first.fingerprint() != joiner.fingerprint()


def test_what_is_told_of_the_ring() -> None:
    """Digests and times, the encrypting key first; no key, and not its name, which tickets show."""
    node = harness()
    node.handle(rotation(0))
    node.advance(61)
    told = node.report()
    text = json.dumps(told)

    encrypting, older = told["ring"]
    assert encrypting["key"] == hashlib.sha256(SECRETS[0]).hexdigest()[:8]
    assert set(encrypting) == {"key", "since", "promoted"}
    assert set(older) == {"key", "since", "promoted", "demoted"}
    assert SECRETS[0][:16].hex() not in text


def test_a_long_ring_is_told_in_little() -> None:
    """What an acknowledgement has room for."""
    node = harness(keep=100, promote_after="0s")
    for number in range(60):
        payload = base64.b64encode(random.Random(number).randbytes(48))
        node.handle(event("tls-session-ticket-refresh", payload, ltime=number + 1))

    assert len(json.dumps(node.report())) < 2048
