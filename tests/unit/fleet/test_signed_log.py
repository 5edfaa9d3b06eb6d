"""Signed messages in a log: numbered under contention, pruned, and written back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentd.errors import BadDocument, FleetError, NoFleetKey
from agentd.fleet.envelope import LARGEST_BODY, Draft, Envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.keys import FAR, POISONED
from agentd.fleet.log import Log
from agentd.fleet.pruning import LATEST
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import SecretKey
from tests.unit.fleet.kv_model import Fault, ModelKV
from tests.unit.fleet.test_log import held, no_pause
from tests.unit.fleet.test_writer import KEYS, NAME, NOW, another, event
from tests.unit.trust.samples import FLEET, KEYRING, OPS, OTHER

LARGE = b"x" * (LARGEST_BODY + 1)


@pytest.fixture
def kv() -> ModelKV:
    """One store."""
    return ModelKV()


def publisher(kv: ModelKV, key: SecretKey = OPS) -> Log:
    """A publisher that signs and seals."""
    return Log(kv, KEYS, lambda: NOW, signer=Signer(key, FLEET))


def draft(body: bytes = b"release", *, sealed: bool = False) -> Draft:
    """What is published."""
    return Draft(body, issued=NOW, publisher="ops@admin1", sealed=sealed)


def messages(kv: ModelKV) -> list[Envelope]:
    """All there are."""
    reader = another(kv)
    return [one for page in reader.after(NAME, 0, None) for one in page.messages]


def opened(message: Envelope, keyring: Keyring = KEYRING) -> bytes | None:
    """What a node that believes the publisher takes from it."""
    assert message.signed is not None
    return keyring.body(keyring.verify(message.signed))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_number_that_was_taken_costs_a_signature_and_no_second_entry(kv: ModelKV, sealed: bool) -> None:  # noqa: FBT001 (a parameter)
    """Fifty times others write first, but for the last of them: one entry, and it is valid at its place."""
    relay = another(kv)
    drafts: Iterator[int] = iter(range(49))

    def contend(_: float = 0.0) -> None:
        number = next(drafts, None)
        if number is not None:
            kv.before_write = lambda: relay.append(NAME, [event(number)], keep="all")

    contend()
    num = publisher(kv).publish(NAME, draft(sealed=sealed), keep="all", pause=contend, patience=600)

    found = messages(kv)
    assert len(found) == 50
    (ours,) = (one for one in found if one.signed)
    assert ours.num == num == found[-1].num
    assert (ours.prev, opened(ours)) == (found[-2].num, b"release")


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_broken_connection_leaves_one_valid_entry(kv: ModelKV, fault: Fault) -> None:
    """Whether the write took effect or not."""
    kv.faults.append(fault)
    num = publisher(kv).publish(NAME, draft(), keep="all", pause=no_pause)

    (found,) = messages(kv)
    assert (found.num, opened(found)) == (num, b"release")


def far(kv: ModelKV, num: int, signer: Signer | None = None) -> None:
    """Write, as whoever may write the log, a newest message with that number."""
    made = draft().numbered(KEYS.fleet, NAME, num, 1, signer=signer)
    kv.put(KEYS.message(NAME, num), made.raw)
    kv.put(KEYS.head(NAME), Head("all", newest=num, oldest=num, count=1, recent=(num,)).render())


@pytest.mark.parametrize("forger", [None, Signer(OTHER, FLEET)], ids=["unsigned", "a stranger's"])
def test_a_forged_number_does_not_use_up_those_that_are_left(kv: ModelKV, forger: Signer | None) -> None:
    """Nodes would believe the signed message after it, and no other one ever."""
    far(kv, POISONED - 2, forger)
    with pytest.raises(FleetError, match=f"consul kv delete {KEYS.message(NAME, POISONED - 2)}"):
        publisher(kv).publish(NAME, draft(), keep="all", pause=no_pause)

    kv.delete(KEYS.message(NAME, POISONED - 2))
    assert publisher(kv).publish(NAME, draft(), keep="all", pause=no_pause) == int(NOW * 1000)


@pytest.mark.parametrize("by", [OPS, OTHER])
def test_a_publisher_goes_on_after_a_number_that_one_it_knows_has_signed(kv: ModelKV, by: SecretKey) -> None:
    """However far it is: nodes are there already."""
    far(kv, FAR, Signer(by, FLEET))
    both = Keyring([Publisher(one.kid, (one.public,), ("*",)) for one in (OPS, OTHER)])
    log = Log(kv, KEYS, lambda: NOW, signer=Signer(OPS, FLEET, both))
    assert log.publish(NAME, draft(), keep="all", pause=no_pause) == FAR + 1


def test_what_consul_lost_is_written_back_and_still_valid(kv: ModelKV) -> None:
    """Fleet, name, number and predecessor are in what is held, verbatim; no key is needed to write it."""
    log = publisher(kv)
    for at in range(3):
        log.publish(NAME, draft(b"%d" % at, sealed=at == 1), keep="all", pause=no_pause)
    memory = held(kv)
    kv.restore({})

    assert another(kv).write_back(NAME, memory, pause=no_pause) == 3

    assert [opened(one) for one in messages(kv)] == [b"0", b"1", b"2"]


def test_a_node_without_any_key_relays_and_prunes_around_signed_messages(kv: ModelKV) -> None:
    """The writers' business is with all messages that are well-formed."""
    publisher(kv).publish(NAME, draft(), keep="latest", pause=no_pause)
    relay = another(kv)
    for number in range(2 * LATEST):
        relay.append(NAME, [event(number)], keep="latest")

    found = messages(kv)
    assert len(found) == LATEST
    assert not any(one.signed for one in found)


def test_an_old_secret_goes_with_the_message_that_replaces_it(kv: ModelKV) -> None:
    """From Consul, and then from the copies of the nodes."""
    log = publisher(kv)
    for body in (b"old", b"older", b"new"):
        log.publish(NAME, draft(body, sealed=True), keep="latest", pause=no_pause)

    assert [opened(one) for one in messages(kv)] == [b"new"]
    head = parse_head(kv.found[KEYS.head(NAME)].value)
    assert (head.count, head.oldest, head.newest) == (1, head.newest, messages(kv)[0].num)
    assert head.base == messages(kv)[0].prev  # what nodes drop


@pytest.mark.parametrize("more", [{"node": "^web"}, {"tag": "blue"}, {"expires": NOW + 60}])
def test_what_is_not_for_all_for_good_replaces_no_secret(kv: ModelKV, more: dict[str, Any]) -> None:
    """Another node would be left without any."""
    log = publisher(kv)
    log.publish(NAME, draft(b"all", sealed=True), keep="latest", pause=no_pause)
    log.publish(NAME, replace(draft(b"some", sealed=True), **more), keep="latest", pause=no_pause)
    assert [opened(one) for one in messages(kv)] == [b"all", b"some"]


def test_of_a_name_with_all_messages_every_sealed_one_stays(kv: ModelKV) -> None:
    """A joiner needs them all."""
    for body in (b"a", b"b"):
        publisher(kv).publish(NAME, draft(body, sealed=True), keep="all", pause=no_pause)
    assert [opened(one) for one in messages(kv)] == [b"a", b"b"]


def test_a_publisher_of_sealed_messages_clears_away_what_lay_there_in_clear(kv: ModelKV) -> None:
    """However many there are: with the next messages at the latest."""
    relay = another(kv)
    for number in range(30):
        relay.append(NAME, [event(number)], keep="latest")
    for _ in range(2):
        publisher(kv).publish(NAME, draft(sealed=True), keep="latest", pause=no_pause)
    assert [opened(one) for one in messages(kv)] == [b"release"]


def test_a_short_signed_message_lies_in_the_head_too(kv: ModelKV) -> None:
    """So that a node needs one request for it."""
    publisher(kv).publish(NAME, draft(b"x" * 300, sealed=True), keep="all", pause=no_pause)

    head = parse_head(kv.found[KEYS.head(NAME)].value)
    assert head.inline == messages(kv)[0].raw


def test_a_large_payload_is_signed_by_its_digest(kv: ModelKV) -> None:
    """It is written first, as of any message."""
    publisher(kv).publish(NAME, draft(LARGE), keep="all", pause=no_pause)

    (found,) = messages(kv)
    assert opened(found) is None
    assert another(kv).payload(found) == LARGE


def test_what_cannot_be_sealed_is_not_written(kv: ModelKV) -> None:
    """Neither the message nor, beside it, its payload."""
    with pytest.raises(BadDocument):
        publisher(kv).publish(NAME, draft(LARGE, sealed=True), keep="all", pause=no_pause)
    with pytest.raises(NoFleetKey):
        Log(kv, KEYS, lambda: NOW, signer=Signer(OPS)).publish(NAME, draft(sealed=True), keep="all")
    assert kv.found == {}


def test_two_publishers_share_a_log(kv: ModelKV) -> None:
    """Each message is valid with the key of its own."""
    publisher(kv).publish(NAME, draft(b"one"), keep="all", pause=no_pause)
    publisher(kv, OTHER).publish(NAME, draft(b"two"), keep="all", pause=no_pause)

    both = Keyring([Publisher("ops", (OPS.public,), ("*",)), Publisher("two", (OTHER.public,), ("*",))])
    assert [opened(one, both) for one in messages(kv)] == [b"one", b"two"]


def test_the_payload_of_a_sealed_message_cannot_be_read_by_mistake(kv: ModelKV) -> None:
    """It is asked of the keyring."""
    publisher(kv).publish(NAME, draft(sealed=True), keep="all", pause=no_pause)
    with pytest.raises(BadDocument, match="sealed"):
        another(kv).payload(messages(kv)[0])
