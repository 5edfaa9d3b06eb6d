"""Random lives of contenders: there are never more living holders than places."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from agentd.locks.semaphore import Semaphore
from tests.examples import LOOKS
from tests.unit.locks.fake import FakeConsul, FakeStore

_LIMIT = 2


class Contest(RuleBasedStateMachine):
    """Contenders come, try (also in the middle of another's attempt), leave and die."""

    contenders: Bundle[str] = Bundle("contenders")

    def __init__(self) -> None:
        super().__init__()
        self.consul = FakeConsul()
        self.store = FakeStore(self.consul)
        self.semaphore = Semaphore(self.store, "p", _LIMIT)
        self.holding: set[str] = set()

    @rule(target=contenders)
    def enter(self) -> str:
        """One more."""
        session = self.store.create_session("test", 15, "delete")
        self.semaphore.enter(session)
        return session

    @rule(contender=contenders)
    def attempt(self, contender: str) -> None:
        """One look."""
        taken = contender in self.consul.sessions and self.semaphore.attempt(contender, 0, 0).taken
        # Who died in the middle of it got a place on the list, which its watch says is none.
        if taken and contender in self.consul.sessions:
            self.holding.add(contender)

    @rule(contender=contenders, other=contenders, dies=st.booleans())
    def attempt_disturbed(self, contender: str, other: str, dies: bool) -> None:  # noqa: FBT001 (drawn)
        """Between the read and the write of one, another tries or dies."""
        self.consul.before_replace = lambda: self.die(other) if dies else self.attempt(other)
        self.attempt(contender)
        self.consul.before_replace = None

    @rule(contender=consumes(contenders))
    def leave(self, contender: str) -> None:
        """Give back what may be held; who did hold it is told so."""
        held = contender in self.holding and contender in self.consul.sessions
        assert self.semaphore.leave(contender) is held
        self.holding.discard(contender)
        self.semaphore.tidy()

    @rule(contender=contenders)
    def die(self, contender: str) -> None:
        """The session ends by its TTL."""
        self.consul.invalidate(contender)
        self.holding.discard(contender)

    @invariant()
    def never_too_many(self) -> None:
        """Living holders fit the places, and each is on the list."""
        assert len(self.holding) <= _LIMIT
        roll = self.consul.pairs.get("p/.lock")
        listed = set(json.loads(roll.value)["Holders"]) if roll else set()
        assert self.holding <= listed


TestContest = Contest.TestCase
TestContest.settings = settings(max_examples=LOOKS or 60, stateful_step_count=25, deadline=None)
