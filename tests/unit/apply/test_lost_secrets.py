"""Secrets that a boot took from memory: what their handler gets back, or is given again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.apply.first_commit import FirstCommit
from agentd.errors import PermanentError
from agentd.handler import Change, Context, Event
from agentd.testing import message
from tests.unit.apply.stand import Pulse, Scribe, Stand, settle, state

FROM_LOG = message("site", b"the secret", num=7)


class Keeper(Scribe):
    """Keeps one secret, and gets it back if it can."""

    def __init__(self, *, recalls: bool = True) -> None:
        super().__init__()
        self.recalls = recalls
        self.fails = False

    def initial(self, context: Context) -> None:
        """Get it back, or make one."""
        if context.files.read("secret") is not None:
            return
        found = context.recall() if self.recalls else ()
        if self.fails:
            raise PermanentError(f"cannot use {found[0].payload!r}")
        for event in found:
            context.files.write("secret", event.payload, mode=0o600, secret=True)
        if not found:
            context.files.write("secret", b"made up", mode=0o600, secret=True)

    def handle(self, change: Change, context: Context) -> None:
        """Take the payload."""
        value = change.payload if isinstance(change, Event) else change.value  # type: ignore[attr-defined]
        context.files.write("secret", value, mode=0o600, secret=True)


class Booting(Stand):
    """A stand whose secrets are in memory."""

    def open(self) -> None:
        """With a vault."""
        super().open()
        self.tree.vault.directory = self.directory / "run"

    def boot(self, handler: Keeper, *found: Event, whole: bool = True) -> list[str]:
        """Start with an empty memory and this copy of the log. Returns who was given messages again."""
        shutil.rmtree(self.directory / "run", ignore_errors=True)
        self.restart()
        again: list[str] = []
        self.worker_ = self.raw_worker(handler, recall=lambda: (found, whole))
        first = FirstCommit(
            [self.worker_],
            self.committer,
            provers=(),
            heartbeat=Pulse(),
            done=lambda: None,
            give_again=again.append,
        )
        first.attempt()
        self.reasons = first.reasons
        return again

    @property
    def secret(self) -> bytes:
        """What nginx reads."""
        return (self.tree.path / "current" / "secret").read_bytes()


@pytest.fixture
def booting(tmp_path: Path) -> Iterator[Booting]:
    """With a secret in force that came from the log."""
    stand = Booting(tmp_path)
    stand.boot(Keeper(), FROM_LOG)
    assert stand.secret == b"the secret"
    yield stand
    stand.journal.close()


def test_what_the_handler_gets_back_is_not_given_again(booting: Booting) -> None:
    """Nginx can start with it."""
    assert booting.boot(Keeper(), FROM_LOG) == []
    assert booting.secret == b"the secret"
    assert booting.tree.intact()


def test_a_node_that_cannot_get_it_back_starts_and_is_given_it_again(booting: Booting) -> None:
    """With what the handler makes up."""
    assert booting.boot(Keeper(), whole=False) == ["scribe"]
    assert booting.secret == b"made up"


def test_a_handler_that_does_not_ask_is_given_it_again(booting: Booting) -> None:
    """It cannot know what it lost."""
    assert booting.boot(Keeper(recalls=False), FROM_LOG) == ["scribe"]


def test_a_restart_without_a_boot_gives_nothing_again(booting: Booting) -> None:
    """Nor does it recall anything."""
    booting.restart()

    worker = booting.raw_worker(Keeper(), recall=lambda: pytest.fail("recalled"))
    booting.found(worker)

    assert worker.ready.is_set()
    assert booting.secret == b"the secret"


def test_a_state_that_is_lost_is_handled_again(booting: Booting) -> None:
    """From the journal; those of other handlers are not."""
    booting.receive(state("from a key"))
    settle(booting.worker_)
    assert booting.secret == b"from a key"

    booting.boot(Keeper(), whole=False)
    settle(booting.worker_)

    assert booting.secret == b"from a key"


def test_an_error_does_not_quote_what_came_sealed(booting: Booting) -> None:
    """A handler that fails over it says so in words that hold nothing of it."""
    handler = Keeper()
    handler.fails = True

    booting.boot(handler, FROM_LOG)

    assert "the secret" not in booting.reasons["scribe"]
    assert "sealed" in booting.reasons["scribe"]
