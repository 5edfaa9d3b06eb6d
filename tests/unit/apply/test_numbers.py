"""The number in force is that of what is committed, proved and not undone, come what may to the journal."""

from __future__ import annotations

import base64

from agentd.errors import PermanentError, TemporaryError, UnderWay
from agentd.handler import Event
from agentd.journal.history import replay, tidy
from agentd.journal.numbers import Attempted
from tests.unit.apply.stand import Prover, Scribe, Stand, Verifier, drift, settle, step


def message(num: int, payload: str, name: str = "block") -> Event:
    """A message of the log."""
    raw = {
        "ID": f"{name}-{num}",
        "Name": name,
        "Payload": base64.b64encode(payload.encode()).decode(),
        "LTime": 0,
        "Message": {"num": num, "issued": 1.0, "from": 1.0, "publisher": "", "via": ""},
    }
    return Event(f"log:{name}", raw, num)


def live(stand: Stand, handler: str = "scribe") -> dict[str, int]:
    """What is in force."""
    return stand.committer.numbers.live(handler)


def tried(stand: Stand) -> Attempted | None:
    """What was taken in hand last."""
    return stand.committer.numbers.attempted("scribe", "log:block")


def test_what_is_applied_is_in_force(stand: Stand) -> None:
    """Each name has a number of its own."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"), message(9, "write B=1", "deploy"))

    settle(worker)

    assert live(stand) == {"block": 5, "deploy": 9}
    assert tried(stand) == Attempted(5, "applied", "")


def test_of_a_batch_the_newest_counts(stand: Stand) -> None:
    """Numbers that were skipped are not missed."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"), message(6, "write A=2"), message(900, "write A=3"))

    settle(worker)

    assert live(stand) == {"block": 900}


def test_what_changes_nothing_is_in_force_as_well(stand: Stand) -> None:
    """Although there is no new generation."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"))
    settle(worker)
    stand.receive(message(6, "write A=1"))

    settle(worker)

    assert live(stand) == {"block": 6}
    assert tried(stand) == Attempted(6, "unchanged", "")


def test_what_is_refused_was_only_tried(stand: Stand) -> None:
    """The one before it stays in force."""
    handler = Scribe()
    handler.raises["write A=2"] = [PermanentError("not today")]
    worker = stand.worker(handler)
    stand.receive(message(5, "write A=1"), message(6, "write A=2"))

    settle(worker)

    assert live(stand) == {"block": 5}
    assert tried(stand) == Attempted(6, "refused", "not today")


def test_what_is_to_be_tried_again_says_why(stand: Stand) -> None:
    """Without an outcome; what waits behind it was not tried."""
    handler = Scribe()
    handler.raises["write A=2"] = [TemporaryError("the disk is away")]
    worker = stand.worker(handler)
    stand.receive(message(6, "write A=2"), message(7, "write A=3"))

    settle(worker)

    assert live(stand) == {}
    assert tried(stand) == Attempted(6, "", "the disk is away")


def test_what_expired_was_only_tried(stand: Stand) -> None:
    """It waited for too long."""
    worker = stand.worker(Scribe(), expire_after=10.0)
    stand.receive(message(6, "write A=2"))
    stand.clock.now += 11

    settle(worker)

    assert live(stand) == {}
    assert tried(stand) == Attempted(6, "expired", "waited longer than 10 s")


def test_what_is_not_proved_is_not_in_force(stand: Stand) -> None:
    """It is once it is proved."""
    prover = stand.worker(Prover(), "nginx")
    worker = stand.worker(Scribe(), provers=["nginx"], notify=["nginx"])
    stand.receive(message(5, "write A=1"))
    settle(worker)

    before = live(stand), tried(stand)
    settle(prover)

    assert before == ({}, Attempted(5, "", ""))
    assert live(stand) == {"block": 5}


def test_a_proof_that_fails_leaves_what_was_in_force(stand: Stand) -> None:
    """Also the number of what changed nothing, which no generation on the disk knows of."""
    proof = Prover()
    prover = stand.worker(proof, "nginx")
    worker = stand.worker(Scribe(), provers=["nginx"], notify=["nginx"])
    for num, payload in ((5, "write A=1"), (6, "write A=1"), (7, "write A=2")):
        stand.receive(message(num, payload))
        if num == 7:
            proof.verdicts = [PermanentError("nginx ended")]
        settle(worker)
        settle(prover)

    settle(worker)

    assert live(stand) == {"block": 6}
    assert tried(stand) == Attempted(7, "failed", "nginx ended")


def test_a_failed_proof_takes_along_what_rested_on_it(stand: Stand) -> None:
    """What changed nothing any more because of the generation that failed is not in force without it."""
    proof = Prover()
    prover = stand.worker(proof, "nginx")
    worker = stand.worker(Scribe(), provers=["nginx"], notify=["nginx"])
    stand.receive(message(5, "write A=1"))
    settle(worker)
    settle(prover)
    stand.receive(message(6, "write A=2"))
    settle(worker)
    stand.receive(message(7, "write A=2"))
    settle(worker)
    between = live(stand)
    proof.verdicts = [PermanentError("nginx ended")]

    settle(prover)

    assert between == {"block": 5}
    assert live(stand) == {"block": 5}


def test_a_rollback_takes_the_number_with_it(stand: Stand) -> None:
    """And going forward again brings it back; another handler's, which did not change, stays."""
    worker, other = stand.worker(Scribe()), stand.worker(Scribe(), "other")
    stand.receive(message(5, "write A=1"))
    settle(worker)
    generation = stand.tree.current
    stand.receive(message(6, "write A=2"))
    settle(worker)
    newer = stand.tree.current
    stand.receive(message(8, "remove X"), handler="other")
    settle(other)

    stand.committer.roll_back(generation, "by hand", ())
    back = live(stand), live(stand, "other")
    stand.committer.roll_back(newer, "by hand", ())

    assert back == ({"block": 5}, {"block": 8})
    assert live(stand) == {"block": 6}


def test_after_a_rollback_the_next_number_counts(stand: Stand) -> None:
    """What was rolled back never comes back by itself."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"))
    settle(worker)
    generation = stand.tree.current
    stand.receive(message(6, "write A=2"), message(4, "write B=2", "deploy"))
    settle(worker)
    stand.committer.roll_back(generation, "by hand", ())

    stand.receive(message(7, "write A=3"))
    settle(worker)

    assert live(stand) == {"block": 7}


def test_a_rollback_is_told_until_it_is_proved(stand: Stand) -> None:
    """Meanwhile nginx may serve either generation."""
    prover = stand.worker(Prover(), "nginx")
    worker = stand.worker(Scribe(), provers=["nginx"], notify=["nginx"])
    stand.receive(message(5, "write A=1"))
    settle(worker)
    settle(prover)
    stand.committer.roll_back(1, "by hand", ["nginx"])
    before = stand.committer.numbers.rolling_back(["nginx"])

    settle(prover)

    assert before
    assert not stand.committer.numbers.rolling_back(["nginx"])


def test_what_does_not_take_effect_is_not_in_force(stand: Stand) -> None:
    """It is committed and proved, and waits for a verdict."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [drift("the kernel has another set")]
    stand.receive(message(5, "write A=1"))

    settle(worker)

    assert live(stand) == {}
    assert tried(stand) == Attempted(5, "", "not in effect: the thing: the kernel has another set")


def test_a_replayed_message_is_what_is_in_force(stand: Stand) -> None:
    """Until a newer one comes: it was applied over what came after it."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"), message(6, "write A=2"))
    settle(worker)

    replay(stand.journal, "block-5")
    settle(worker)

    assert live(stand) == {"block": 5}
    assert tried(stand) == Attempted(5, "applied", "")


def test_a_message_that_was_overtaken_is_not_passed_over(stand: Stand) -> None:
    """Whoever waits for it must not take the later one for it."""
    handler = Scribe()
    handler.raises["write A=2"] = [UnderWay("downloading")]
    worker = stand.worker(handler)
    stand.receive(message(5, "write A=1"), message(6, "write A=2"), message(7, "write B=3"))

    step(worker)
    before = live(stand)
    settle(worker)

    assert before == {"block": 5}
    assert live(stand) == {"block": 7}


def test_the_tree_knows_the_numbers_when_the_journal_is_lost(stand: Stand) -> None:
    """As of the last generation that was made."""
    worker = stand.worker(Scribe())
    stand.receive(message(5, "write A=1"), message(9, "write B=1", "deploy"))
    settle(worker)
    stand.journal.close()
    for file in stand.journal.path.parent.glob("journal.db*"):
        file.unlink()

    stand.restart()

    assert live(stand) == {"block": 5, "deploy": 9}
    assert tried(stand) is None


def test_numbers_of_long_ago_are_forgotten(stand: Stand) -> None:
    """The newest stays."""
    worker = stand.worker(Scribe())
    for num in range(1, 30):
        stand.receive(message(num, f"write A={num}"))
        settle(worker)

    tidy(stand.journal, keep=1e9, replayable=1e9)

    kept = stand.journal.database.rows("SELECT num FROM numbers ORDER BY num")
    assert [row["num"] for row in kept] == list(range(14, 30))
    assert live(stand) == {"block": 29}
