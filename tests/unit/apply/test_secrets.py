"""Retired ticket keys leave the disk: every generation, the mirror, the journal and its log."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.apply.commit import Committer
from agentd.apply.worker import Worker
from agentd.errors import JournalError, PermanentError
from agentd.handler import Event
from agentd.journal.entry import Ending, Outcome
from agentd.journal.history import replay, replayable
from agentd.journal.payloads import finish, forget, scrub
from handlers.tls_ticket_keys import TicketKeys
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle, state
from tests.unit.tree.faults import killed_at
from tests.unit.tree.trees import generations

RETIRE = 1000.0
OLD, NEW, NEXT = (bytes(range(start, start + 80)) for start in (10, 60, 110))
OPTIONS: dict[str, Any] = {"promote_after": 0, "retire_after": RETIRE}


def new_worker(stand: Stand, **options: Any) -> Worker:  # noqa: ANN401 (TicketKeys' own)
    """A worker of ticket keys, whose first files are committed."""
    return stand.worker(TicketKeys(TicketKeys.Options(**OPTIONS | options)), "tickets")


def fire(stand: Stand, worker: Worker, key: bytes, identity: str, ltime: int) -> Event:
    """An event with the key, handled."""
    text = base64.encodebytes(key).decode()
    fired = event(identity, text)
    fired = replace(fired, raw={**fired.raw, "LTime": ltime})
    stand.receive(fired, handler="tickets")
    settle(worker)
    return fired


def logged(num: int, key: bytes) -> Event:
    """A message of the log with a key."""
    made = event(f"keys-{num}", base64.b64encode(key).decode())
    told = {"num": num, "issued": 1.0, "from": 1.0, "publisher": "", "via": ""}
    return Event("log:keys", made.raw | {"Name": "keys", "Message": told}, num)


def places(stand: Stand, key: bytes) -> list[str]:
    """The files that contain it: raw, in hex, in base64, or in the base64 that Consul makes of that."""
    text = base64.b64encode(key)
    wrapped = base64.encodebytes(key)
    forms = [key, key.hex().encode(), text, *(base64.b64encode(one)[:60] for one in (key, text, wrapped))]
    return [
        str(file.relative_to(stand.directory))
        for file in stand.directory.rglob("*")
        if file.is_file() and not file.is_symlink() and any(form in file.read_bytes() for form in forms)
    ]


def rotated(stand: Stand) -> Worker:
    """A node where OLD encrypted, then NEW, so that OLD is due to retire in RETIRE seconds."""
    worker = new_worker(stand)
    fire(stand, worker, OLD, "old", 1)
    fire(stand, worker, NEW, "new", 2)
    assert places(stand, OLD)
    return worker


def retire(stand: Stand, worker: Worker) -> None:
    """Let the time pass."""
    stand.clock.now += RETIRE + 1
    settle(worker)


# ---------------------------------------------------------------- nowhere on the disk


def test_a_retired_key_is_in_no_file(stand: Stand) -> None:
    """Nor are its name and digest misleading: the key that encrypts is still there."""
    retire(stand, rotated(stand))

    assert places(stand, OLD) == []
    assert places(stand, NEW)


def test_a_key_that_still_decrypts_stays(stand: Stand) -> None:
    """Its time is not over."""
    worker = rotated(stand)
    stand.clock.now += RETIRE - 1
    settle(worker)

    assert [place for place in places(stand, OLD) if "current" not in place]


def test_a_payload_of_another_handler_is_wiped_as_well(stand: Stand) -> None:
    """It took the same event; so did one that found the key there already."""
    worker = rotated(stand)
    stand.receive(event("again", base64.b64encode(OLD).decode()), handler="other")
    stand.journal.end([Ending(one, Outcome.FAILED) for one in stand.journal.pending("other")])

    retire(stand, worker)

    assert places(stand, OLD) == []


def test_a_key_from_the_kv_store_is_wiped_once_it_is_retired(stand: Stand) -> None:
    """Also if no newer value came by that way, so that it is the newest state of its query."""
    worker = new_worker(stand)
    stand.receive(state(base64.b64encode(OLD).decode()), handler="tickets")
    settle(worker)
    stand.receive(replace(event("e", base64.b64encode(NEW).decode()), epoch=1), handler="tickets")
    settle(worker)

    retire(stand, worker)
    stand.journal.owe_states()

    assert places(stand, OLD) == []
    assert stand.journal.pending("tickets") == []


@pytest.mark.parametrize("secret", [b"", b"\n", b"0", b"  no\n      "])
def test_what_may_be_part_of_anything_is_not_looked_for(stand: Stand, secret: bytes) -> None:
    """A secret file may have been empty until there was something to write to it."""
    stand.receive(state("no 0 " * 5))
    settle(stand.worker(Scribe()))

    assert scrub(stand.journal, [secret]) == 0


def test_a_replay_says_that_the_payload_was_wiped(stand: Stand) -> None:
    """And what to do."""
    retire(stand, rotated(stand))

    with pytest.raises(JournalError, match=r"was wiped .*; fire it again"):
        replay(stand.journal, "old")


def test_a_payload_that_is_needed_stays(stand: Stand) -> None:
    """Whoever waits for its turn needs it."""
    worker = rotated(stand)
    stand.receive(event("waits", base64.b64encode(OLD).decode()), handler="stuck")

    retire(stand, worker)

    assert len(stand.journal.pending("stuck")) == 1


@pytest.mark.parametrize(
    "form", [lambda key: key, base64.b64encode, base64.encodebytes], ids=["raw", "base64", "lines"]
)
def test_a_payload_is_found_in_every_form_that_is_taken(stand: Stand, form: Any) -> None:  # noqa: ANN401
    """Raw, base64, base64 with line breaks; another key's is left."""
    for name, key in (("old", OLD), ("new", NEW)):
        raw = event(name).raw | {"Payload": base64.b64encode(form(key)).decode()}
        stand.receive(Event("event", raw))
    settle(stand.worker(Scribe()))

    assert scrub(stand.journal, [OLD]) == 1
    assert places(stand, NEW)


# ---------------------------------------------------------------- whatever happens


def test_it_is_done_at_the_start_after_a_long_stop(stand: Stand) -> None:
    """Agentd was down for longer than `retire_after`."""
    rotated(stand)
    stand.clock.now += 10 * RETIRE
    stand.restart()

    new_worker(stand)

    assert places(stand, OLD) == []


def test_a_kill_at_any_moment_is_made_up_for(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the next start, whatever was half done."""
    worker = rotated(stand)
    with monkeypatch.context() as patched:
        patched.setattr(Committer, "tidy", lambda _self: None)
        retire(stand, worker)
    stand.journal.close()
    before = shutil.copytree(stand.directory, tmp_path / "before", symlinks=True)
    assert places(stand, OLD)
    step, killed = 0, True
    while killed:
        step += 1
        shutil.rmtree(stand.directory)
        shutil.copytree(before, stand.directory, symlinks=True)
        stand.open()
        killed = killed_at(step, stand.committer.tidy)
        stand.restart()
        assert places(stand, OLD) == [], step
        for generation in generations(stand.tree):
            stand.committer.roll_back(generation.number, "by hand", ())
            assert stand.tree.damage() == "", step
    assert step > 30


def test_without_the_handler_its_keys_go_at_once(stand: Stand) -> None:
    """Nobody could retire them any more."""
    rotated(stand)

    stand.worker(Scribe())

    assert places(stand, OLD) == places(stand, NEW) == []


def test_a_mirror_that_cannot_follow_is_given_up(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy is better than an old key."""
    worker = rotated(stand)
    monkeypatch.setattr("agentd.tree.mirror.Mirror.follow", lambda *_: None)

    retire(stand, worker)

    assert places(stand, OLD) == []


def test_a_generation_that_cannot_be_read_keeps_no_key(stand: Stand) -> None:
    """Its manifest is damaged, so that nobody knows what was secret; nginx will never read it."""
    worker = rotated(stand)
    victim = generations(stand.tree)[-2].directory / "manifest.json"
    victim.write_bytes(b"{")

    retire(stand, worker)

    assert places(stand, OLD) == []


def test_what_an_earlier_version_made_is_wiped(stand: Stand) -> None:
    """Its manifests do not say which files are secret."""
    worker = rotated(stand)
    for generation in generations(stand.tree):
        path = generation.directory / "manifest.json"
        body = json.loads(path.read_bytes())
        for name in ("secrets", "wiped", "digest"):
            body.pop(name)
        path.unlink()
        path.write_text(json.dumps(body))
    stand.restart()
    worker = new_worker(stand)

    retire(stand, worker)

    assert places(stand, OLD) == []


def test_a_clock_that_was_set_back_keeps_no_payload(stand: Stand) -> None:
    """By a year: what ended in the future is wiped at once."""
    worker = new_worker(stand)
    stand.receive(event("bad", "not a key"), handler="tickets")
    settle(worker)
    stand.clock.now -= 365 * 86400

    forget(stand.journal, "tickets", RETIRE)

    with pytest.raises(JournalError, match="wiped"):
        replay(stand.journal, "bad")


def test_a_refused_payload_stays_no_longer_than_a_key(stand: Stand) -> None:
    """It may be one, but for a typing error."""
    worker = new_worker(stand)
    stand.receive(event("bad", "not a key"), handler="tickets")
    settle(worker)

    stand.clock.now += RETIRE - 1
    forget(stand.journal, "tickets", worker.payload_life or 0)
    replayable(stand.journal, "bad")
    stand.clock.now += 2
    forget(stand.journal, "tickets", worker.payload_life or 0)

    with pytest.raises(JournalError, match="wiped"):
        replayable(stand.journal, "bad")


def test_a_reader_puts_off_the_end_of_the_log(stand: Stand) -> None:
    """It looks at what was there when it began; once it is done, the log is emptied."""
    worker = rotated(stand)
    with closing(sqlite3.connect(stand.journal.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM changes").fetchone()
        retire(stand, worker)
        during = places(stand, OLD)

    finish(stand.journal)

    assert during
    assert places(stand, OLD) == []


# ---------------------------------------------------------------- what is wiped stays usable


def test_a_rollback_keeps_the_current_keys(stand: Stand) -> None:
    """All else goes back: another handler's files, and its store."""
    scribe = stand.worker(Scribe())
    stand.receive(event("1", "write a=1; store a=1"))
    settle(scribe)
    worker = stand.raw_worker(TicketKeys(TicketKeys.Options(**OPTIONS)), "tickets")
    stand.found(stand.raw_worker(Scribe()), worker)
    fire(stand, worker, OLD, "old", 1)
    to = stand.tree.current
    stand.receive(event("2", "write a=2; store a=2"))
    settle(scribe)
    fire(stand, worker, NEW, "new", 3)
    fire(stand, worker, NEW, "the same", 2)  # changes the store alone
    keys = {path: data for path, data in stand.files.items() if path.startswith("tickets/")}
    ring = stand.journal.store("tickets")

    stand.committer.roll_back(to, "by hand", ())

    assert stand.tree.current == to
    assert stand.files == {"a": b"1"} | keys
    assert (stand.journal.store("scribe"), stand.journal.store("tickets")) == ({"a": "1"}, ring)


def test_a_rollback_keeps_what_is_in_force_of_the_log(stand: Stand) -> None:
    """The keys stay, so their message does; also forth again, over a restart, and if the next one comes."""
    worker = new_worker(stand)
    generations_of = {}
    for num, key in ((5, OLD), (6, NEW)):
        stand.receive(logged(num, key), handler="tickets")
        settle(worker)
        generations_of[num] = stand.tree.current

    for num in (5, 6, 5):
        stand.committer.roll_back(generations_of[num], "by hand", ())
        assert stand.committer.numbers.live("tickets") == {"keys": 6}
    stand.restart()
    worker = new_worker(stand)
    stand.receive(logged(7, NEXT), handler="tickets")
    stand.committer.roll_back(generations_of[6], "by hand", ())  # while the next one waits
    assert stand.committer.numbers.live("tickets") == {"keys": 6}
    settle(worker)

    assert stand.committer.numbers.live("tickets") == {"keys": 7}


def test_a_generation_whose_key_was_wiped_is_sound_and_says_so(stand: Stand) -> None:
    """Nothing heals it, a start included, and it can be made current."""
    worker = rotated(stand)
    old = next(path for path, data in stand.files.items() if data == OLD)
    to = stand.tree.current
    retire(stand, worker)
    stand.restart()

    manifest = stand.tree.manifest(to)
    stand.committer.roll_back(to, "by hand", (), check=True)
    stand.restart()

    assert old in manifest.wiped
    assert old not in manifest.files
    assert (stand.tree.current, stand.tree.damage()) == (to, "")
    assert places(stand, OLD) == []


def test_a_roll_back_out_of_damaged_keys_takes_those_of_then(stand: Stand) -> None:
    """What cannot be read cannot be kept."""
    rotated(stand)
    to = stand.tree.numbers()[-2]
    shutil.rmtree(stand.directory / "state" / "mirror")
    include = next(path for path in stand.files if path.endswith(".conf"))
    (stand.tree.path / "current" / include).unlink()

    stand.committer.roll_back(to, "by hand", ())

    assert stand.tree.current == to
    assert stand.tree.damage() == ""


def test_a_failed_proof_gives_the_earlier_keys_back(stand: Stand) -> None:
    """The retired one among them, as long as the proof may still fail; then it goes."""
    prover = Prover()
    proves = stand.raw_worker(prover, "reload")
    worker = stand.raw_worker(
        TicketKeys(TicketKeys.Options(**OPTIONS)), "tickets", provers=("reload",), notify=["reload"]
    )
    stand.found(worker, proves)
    for key, identity, ltime in ((OLD, "old", 1), (NEW, "new", 2)):
        fire(stand, worker, key, identity, ltime)
        settle(proves)
    keys = set(stand.files)
    prover.verdicts = [PermanentError("no")]

    stand.clock.now += RETIRE + 1
    settle(worker)
    settle(proves)
    back = set(stand.files)
    settle(worker)
    settle(proves)
    stand.committer.wipe()

    assert back == keys
    assert Outcome.FAILED in {one.outcome for one in stand.endings}
    assert places(stand, OLD) == []
