"""With `drift: report` a damaged tree stays as it is until a change comes: nothing else restores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agentd.accounts import Accounts
from agentd.apply.worker import Worker
from agentd.handler import Context, Verdict
from agentd.journal.entry import Entry
from agentd.watch.changes import Change, Notification, Timer
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle


class Busy(Scribe):
    """Has timed work, verifies, and tells the fleet of itself; notes whether it may mend."""

    def __init__(self) -> None:
        super().__init__()
        self.may: list[bool] = []

    def due(self, now: float, context: Context) -> float | None:
        """Write a file, always at once."""
        self.may.append(context.mend)
        context.files.write("due", str(now).encode())
        return now + 10

    def verify(self, context: Context) -> Verdict:
        """All is well."""
        self.may.append(context.mend)
        return Verdict()

    def fingerprint(self, context: Context) -> str:  # noqa: ARG002 (the interface)
        """Of nothing."""
        return "f"

    def report(self, context: Context) -> Mapping[str, Any]:  # noqa: ARG002 (as above)
        """Nothing."""
        return {}


class Damaged:
    """A node whose tree is damaged, and where that is only told."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.busy, self.prover = Busy(), Prover()
        self.worker = stand.raw_worker(
            self.busy, mend=False, notify=["nginx"], accounts=Accounts(lambda: None)
        )
        self.nginx = stand.raw_worker(self.prover, "nginx", mend=False)
        stand.found(self.worker, self.nginx)
        stand.receive(event("a", "write A=1"))
        for one in (self.worker, self.nginx):
            settle(one)
        self.victim = stand.tree.path / "current" / "A"
        self.victim.unlink()
        self.victim.write_bytes(b"by hand")
        self.busy.may.clear()

    def steps(self, worker: Worker) -> None:
        """What it does within minutes, as far as it can."""
        for _ in range(5):
            for _ in range(5):
                worker.step()
            self.stand.clock.now += 60

    @property
    def stays(self) -> bool:
        """Whether the damage is as it was made."""
        return self.victim.read_bytes() == b"by hand"


@pytest.fixture
def damaged(stand: Stand) -> Damaged:
    """One, whose handlers have nothing to do."""
    return Damaged(stand)


def test_timed_work_verification_and_accounts_restore_nothing(damaged: Damaged) -> None:
    """Nobody asked for anything."""
    damaged.steps(damaged.worker)

    assert damaged.stays
    assert damaged.stand.tree.damage()


@pytest.mark.parametrize(
    "change",
    [
        lambda: Timer("timer", {"at": 1}),
        lambda: Notification(
            "notify", {"id": "again-2", "generation": 2, "by": "x", "paths": [], "rollback": False}
        ),
    ],
    ids=["timed work that could not be committed", "a notification"],
)
def test_what_waits_and_is_no_change_restores_nothing(damaged: Damaged, change: Callable[[], Change]) -> None:
    """It waits until the tree is as it was committed."""
    entry: Entry = damaged.stand.journal.queue("scribe", change())

    damaged.steps(damaged.worker)

    assert damaged.stays
    assert not any(damaged.busy.may)
    assert entry.id in {one.id for one in damaged.stand.journal.pending("scribe")}


def test_a_reload_that_is_owed_waits_for_the_next_change(damaged: Damaged) -> None:
    """Nginx must not read what nobody committed, nor the tree be restored for that alone."""
    raw = {"id": "again-2", "generation": 2, "by": "nginx", "paths": [], "rollback": False}
    damaged.stand.journal.queue("nginx", Notification("notify", raw))
    proofs = len(damaged.prover.saw)
    damaged.steps(damaged.nginx)
    waited = damaged.stays and len(damaged.prover.saw) == proofs

    damaged.stand.receive(event("b", "write B=1"))
    for worker in (damaged.worker, damaged.nginx, damaged.worker, damaged.nginx):
        damaged.steps(worker)

    assert waited
    assert damaged.stand.outcomes == {"a": "applied", "b": "applied"}
    assert damaged.stand.files["A"] == b"1"
    assert len(damaged.prover.saw) > proofs
    assert not damaged.stand.journal.pending("nginx")


def test_what_was_timed_may_mend_nothing_at_its_second_attempt_either(stand: Stand) -> None:
    """As at the first one."""
    busy = Busy()
    worker = stand.raw_worker(busy, mend=False)
    stand.found(worker)
    settle(worker)
    busy.may.clear()
    stand.journal.queue("scribe", Timer("timer", {"at": 1}))

    settle(worker)

    assert not any(busy.may)
