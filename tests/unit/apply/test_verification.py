"""A change of a handler that verifies is applied only once it is seen to take effect."""

from __future__ import annotations

from agentd.apply.worker import Worker
from agentd.errors import TemporaryError
from agentd.handler import Context, Drift, Verdict
from agentd.journal.drift import Drifts
from agentd.journal.history import history
from tests.unit.apply.stand import Prover, Scribe, Stand, Verifier, drift, event, settle


def not_in_effect(stand: Stand) -> Worker:
    """Commit the event `a`, of which the first verdict is that it is not in effect; the next is good."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [drift()]
    stand.receive(event("a", "write A=1"))
    settle(worker)
    return worker


def test_a_change_is_applied_once_it_takes_effect(stand: Stand) -> None:
    """A verdict without drift ends it."""
    worker = stand.worker(Verifier())
    stand.receive(event("a", "write A=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied"}


def test_what_is_not_in_effect_waits_and_says_why(stand: Stand) -> None:
    """The generation is kept, and the change has no outcome."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [drift("tickets are off in site.conf:3")]
    stand.receive(event("a", "write A=1"))

    settle(worker)

    assert stand.outcomes == {"a": None}
    assert stand.reason("a") == "not in effect: the thing: tickets are off in site.conf:3"
    assert stand.files == {"A": b"1"}
    assert history(stand.journal)[0]["live"]


def test_what_is_not_in_effect_is_asked_about_again(stand: Stand) -> None:
    """Until the verdict is good, which ends the change."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [drift(), drift()]
    stand.receive(event("a", "write A=1"))
    settle(worker)
    for _ in range(2):
        stand.clock.now += 10
        settle(worker)

    assert stand.outcomes == {"a": "applied"}
    assert Drifts(stand.journal).standing() == []


def test_a_later_change_does_not_wait_for_one_that_is_not_in_effect(stand: Stand) -> None:
    """It is committed, and both end together."""
    worker = not_in_effect(stand)
    stand.receive(event("b", "write B=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "applied"}


def test_it_is_too_early_to_verify_what_is_not_proved(stand: Stand) -> None:
    """Files that nginx may not have read yet are no evidence."""
    handler = Verifier()
    worker = stand.worker(handler, notify=["nginx"], provers=["nginx"])
    settle(worker)
    asked = len(handler.asked)
    stand.receive(event("a", "write A=1"))

    settle(worker)
    stand.clock.now += 100
    settle(worker)
    early = len(handler.asked)
    stand.committer.prove(stand.tree.current)
    stand.clock.now += 1
    settle(worker)

    assert early == asked
    assert handler.asked[asked:] == [stand.tree.current]
    assert stand.outcomes == {"a": "applied"}


def test_the_proof_wakes_who_verifies(stand: Stand) -> None:
    """So that the outcome does not wait for the next look."""
    worker = stand.worker(Verifier(), notify=["nginx"], provers=["nginx"])
    stand.receive(event("a", "write A=1"))
    settle(worker)
    stand.told.clear()

    stand.committer.prove(stand.tree.current)

    assert stand.told == ["scribe"]


def test_without_anything_to_prove_there_is_nothing_to_verify(stand: Stand) -> None:
    """With nginx down the outcome says so, and nobody waits."""
    worker = stand.worker(Verifier(), notify=["nginx"], provers=["nginx"])
    prover = Prover()
    nginx = stand.worker(prover, "nginx")
    stand.receive(event("a", "write A=1"))
    settle(worker)
    prover.verdicts = ["nginx is not running, it will serve this when it starts"]

    settle(nginx)

    assert stand.outcomes == {"a": "applied"}
    assert stand.reason("a") == "committed; nginx is not running, it will serve this when it starts"


def test_what_cannot_be_asked_is_quoted(stand: Stand) -> None:
    """The change is applied, and its outcome says what nobody could see."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [Verdict(unasked="no listener offers TLS 1.2")]
    stand.receive(event("a", "write A=1"))

    settle(worker)

    assert (stand.outcomes, stand.reason("a")) == (
        {"a": "applied"},
        "not verified: no listener offers TLS 1.2",
    )


def test_drift_is_looked_for_on_a_timer(stand: Stand) -> None:
    """Without any change, every `verify_every` seconds, and at the start."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    handler.verdicts = [Verdict(mended=(Drift("set", "it was flushed"),), gauges={"entries": 7})]
    stand.clock.now += 61

    settle(worker)

    assert stand.drifts == [(0, 0), (0, 1)]
    assert stand.gauges == {"entries": 7}


def test_drift_is_kept_with_its_first_moment(stand: Stand) -> None:
    """Another reason for the same part does not make it younger."""
    handler = Verifier()
    handler.verdicts = [drift("one"), drift("two")]
    worker = stand.worker(handler)
    settle(worker)
    began = stand.clock.now
    stand.clock.now += 10
    settle(worker)

    (found,) = Drifts(stand.journal).standing()

    assert (found.reason, found.since) == ("two", began)


def test_a_verdict_that_cannot_be_had_is_drift(stand: Stand) -> None:
    """Nobody may say that it takes effect."""
    handler = Verifier()
    handler.verdicts = [TemporaryError("no answer"), ValueError("a bug")]
    worker = stand.worker(handler)
    settle(worker)
    stand.receive(event("a", "write A=1"))
    settle(worker)

    (found,) = Drifts(stand.journal).standing()

    assert found.reason == "it cannot be verified: bug in the handler: ValueError, see the log"
    assert stand.outcomes == {"a": None}


def test_changes_do_not_put_off_the_verification_for_ever(stand: Stand) -> None:
    """Once it is overdue it goes before the next change."""
    handler = Verifier()
    worker = stand.worker(handler)
    settle(worker)
    asked = len(handler.asked)
    stand.clock.now += 100
    stand.receive(event("a", "write A=1"))

    worker.step()

    assert len(handler.asked) == asked + 1


def test_a_handler_that_no_longer_verifies_leaves_nothing_open(stand: Stand) -> None:
    """What it committed is live, and ends so."""
    not_in_effect(stand)

    stand.committer.release([])

    assert stand.outcomes == {"a": "applied"}
    assert "no longer configured to verify" in stand.reason("a")


def test_a_kill_before_the_verdict_loses_nothing(stand: Stand) -> None:
    """After the restart it is asked, and the change ends."""
    not_in_effect(stand)
    stand.restart()

    settle(stand.worker(Verifier()))

    assert stand.outcomes == {"a": "applied"}


def test_a_handler_without_verify_is_not_asked(stand: Stand) -> None:
    """Its changes end with the proof, or with the commit."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write A=1"))

    settle(worker)

    assert (stand.outcomes, stand.drifts) == ({"a": "applied"}, [])


def test_a_change_waits_for_those_who_load_what_it_wrote(stand: Stand) -> None:
    """A handler that is notified and verifies is asked too, and one does not speak for another."""
    writer = stand.worker(Scribe(), notify=["one", "two"], verifiers=["one", "two"])
    handlers = {"one": Verifier(), "two": Verifier()}
    loaders = [stand.worker(handler, name) for name, handler in handlers.items()]
    for loader in loaders:
        settle(loader)
    handlers["two"].verdicts = [drift("the set is empty")]
    stand.receive(event("a", "write A=1"))

    for worker in (writer, *loaders):
        settle(worker)
    first = stand.outcomes, stand.reason("a")
    stand.clock.now += 10
    settle(loaders[1])

    assert first == ({"a": None}, "not in effect: the thing: the set is empty")
    assert (stand.outcomes, stand.reason("a")) == ({"a": "applied"}, "")


def test_what_was_in_the_way_is_not_told_once_it_is_gone(stand: Stand) -> None:
    """A change that waits for a second verifier does not quote the first one's trouble any more."""
    writer = stand.worker(Scribe(), notify=["one", "two"], verifiers=["one", "two"])
    handler = Verifier()
    handler.verdicts = [Verdict(), drift("the set is empty")]
    loader = stand.worker(handler, "one")
    settle(loader)
    stand.receive(event("a", "write A=1"))
    settle(writer)
    settle(loader)
    stand.clock.now += 10

    settle(loader)

    assert (stand.outcomes, stand.reason("a")) == ({"a": None}, "")


def test_without_nginx_others_verify_all_the_same(stand: Stand) -> None:
    """What was loaded elsewhere is asked about, and the outcome says as well that nginx is not running."""
    writer = stand.worker(Verifier(), notify=["nginx", "one"], provers=["nginx"], verifiers=["one"])
    prover, handler = Prover(), Verifier()
    prover.verdicts = ["nginx is not running"]
    nginx, loader = stand.worker(prover, "nginx"), stand.worker(handler, "one")
    settle(loader)
    stand.receive(event("a", "write A=1"))
    for worker in (writer, nginx):
        settle(worker)
    before = stand.outcomes

    settle(loader)

    assert (before, stand.outcomes) == ({"a": None}, {"a": "applied"})
    assert stand.reason("a") == "committed; nginx is not running"


class Mender(Verifier):
    """Notes whether it may mend."""

    def __init__(self) -> None:
        super().__init__()
        self.may: list[bool] = []

    def verify(self, context: Context) -> Verdict:
        """Note it."""
        self.may.append(context.mend)
        return super().verify(context)


def test_where_drift_is_only_told_a_start_and_a_change_may_mend(stand: Stand) -> None:
    """What they need is not there yet; what stood there once, and stands no longer, is told."""
    handler = Mender()
    worker = stand.raw_worker(handler, mend=False)
    stand.found(worker)
    settle(worker)
    stand.clock.now += 100
    settle(worker)
    stand.receive(event("a", "write A=1"))
    settle(worker)
    stand.clock.now += 100
    settle(worker)

    assert handler.may == [True, False, True, False]


def test_drift_is_mended_unless_it_is_said_otherwise(stand: Stand) -> None:
    """At every look."""
    handler = Mender()
    worker = stand.worker(handler)
    settle(worker)
    stand.clock.now += 100
    settle(worker)

    assert handler.may == [True, True]
