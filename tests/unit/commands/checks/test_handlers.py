"""What `agentd check` learns from the handlers themselves, and from the journal."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd.commands.checks import handlers
from agentd.commands.checks.finding import Finding
from agentd.config.load import load
from agentd.errors import TemporaryError
from agentd.handler import Change, Context, Drift, Handler, Verdict
from agentd.journal.journal import Journal
from tests.unit.apply.stand import Scribe, Stand, drift, settle, state

ALLOWED = "https://feeds.example/"


class Doubtful(Handler):
    """Verifies, and never finds things as they should be; in a dry run it must mend nothing."""

    verdict: Verdict | Exception = drift("it was flushed", part="ipset agentd4")

    def handle(self, change: Change, context: Context) -> None:
        """Do nothing."""

    def verify(self, context: Context) -> Verdict:
        """Say what it was told to say."""
        assert context.dry_run
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A configuration in an empty directory."""
    return tmp_path / "agentd.yaml"


def check(file: Path, handler: dict[str, Any]) -> list[Finding]:
    """What is found with this one handler, called `a`, on the tree and the journal of a stand."""
    configuration = {
        "nginx": None,
        "tree": {"path": str(file.parent / "tree")},
        "state": str(file.parent / "state"),
        "sources": {"allow": [ALLOWED]},
        "handlers": {"scribe": handler},
    }
    file.write_text(json.dumps(configuration, indent=1))
    return list(handlers.findings(load(file)))


@pytest.mark.parametrize(
    "reference, said",
    [
        ("htps://feeds.example/drop.txt", "the reference cannot be used"),
        ("https://elsewhere.example/drop.txt", "is not allowed"),
        ("https://me:secret@feeds.example/drop.txt", "must not contain a user name or password"),
    ],
)
def test_a_list_that_can_never_be_fetched_fails_with_its_line(node: Path, reference: str, said: str) -> None:
    """Before the first attempt; a password is not repeated."""
    lists = {"drop": {"reference": reference}}

    (found,) = check(node, {"use": "ip_blacklist", "options": {"lists": lists}})

    line = next(at for at, text in enumerate(node.read_text().splitlines(), 1) if "reference" in text)
    assert (found.level, found.subject) == ("FAIL", "handler scribe")
    assert found.text.startswith(f"{node}:{line}: handlers.scribe.options.lists.drop.reference: ")
    assert said in found.text
    assert "secret" not in found.text


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("deadline", "2m", "120 s are not shorter than the handler's `timeout` (60 s)"),
        ("interval", "2h", "each change would wait for up to 7200 s"),
    ],
)
def test_times_of_a_reload_that_cannot_be_fail(node: Path, option: str, value: str, said: str) -> None:
    """Neither is an error of its own, but nothing would work as it says."""
    (found,) = check(node, {"use": "nginx_reload", "options": {option: value}})

    assert found.level == "FAIL"
    assert f"handlers.scribe.options.{option}: {said}" in found.text


def test_lists_that_may_be_fetched_are_fine(node: Path) -> None:
    """One line says so."""
    lists = {"drop": {"reference": f"{ALLOWED}drop.txt"}}

    (found,) = check(node, {"use": "ip_blacklist", "options": {"lists": lists}})

    assert (found.level, found.text) == ("ok", "options are fine")


def test_a_handler_with_nothing_to_ask_is_listed(node: Path) -> None:
    """Its options are known to be of the right shape; who looks for it would miss it otherwise."""
    (found,) = check(node, {"use": "command", "on": [{"event": "x"}], "options": {"argv": ["/bin/true"]}})

    assert (found.level, found.subject, found.text) == ("ok", "handler scribe", "options are fine")


def test_what_is_not_in_effect_fails(node: Path) -> None:
    """The handler is asked now, whatever the daemon saw last."""
    stand = Stand(node.parent)
    stand.worker(Scribe())
    stand.journal.close()

    (found,) = check(node, {"use": f"{__name__}:Doubtful"})

    assert (found.level, found.text) == ("FAIL", "not in effect: ipset agentd4: it was flushed")


@pytest.mark.parametrize(
    "verdict, text",
    [
        (Verdict((Drift("*:443", "an old key", reload=True),)), "not in effect: *:443: an old key"),
        (Verdict(unasked="not provable: *:443: only TLS 1.3"), "not provable: *:443: only TLS 1.3"),
    ],
)
def test_what_a_reload_cures_or_nobody_can_ask_is_a_warning(
    node: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, text: str
) -> None:
    """The one will be well, the other may be."""
    stand = Stand(node.parent)
    stand.worker(Scribe())
    stand.journal.close()
    monkeypatch.setattr(Doubtful, "verdict", verdict)

    (found,) = check(node, {"use": f"{__name__}:Doubtful"})

    assert (found.level, found.text) == ("warn", text)


@pytest.mark.parametrize("error", [TemporaryError("no answer"), ValueError("a bug")])
def test_a_handler_that_cannot_be_asked_fails(
    node: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Not knowing is no good news."""
    stand = Stand(node.parent)
    stand.worker(Scribe())
    stand.journal.close()
    monkeypatch.setattr(Doubtful, "verdict", error)

    (found,) = check(node, {"use": f"{__name__}:Doubtful"})

    assert found.level == "FAIL"
    assert str(error) in found.text


def test_nothing_is_in_effect_before_the_first_commit(node: Path) -> None:
    """There is nothing to ask about."""
    (found,) = check(node, {"use": f"{__name__}:Doubtful"})

    assert (found.level, found.text) == ("ok", "options are fine")


def test_a_state_that_failed_is_told_with_its_moment(node: Path) -> None:
    """What the handler stands for is not in force."""
    stand = Stand(node.parent)
    handler = Scribe()
    worker = stand.worker(handler)
    handler.raises["write A=1"] = [TemporaryError("the disk is full")] * 3
    stand.receive(state("write A=1"))
    for _ in range(8):
        settle(worker)
        stand.clock.now += 1
    stand.journal.close()

    fine, found = check(node, {"use": f"{__name__}:Quiet", "on": [{"key": "site"}]})

    assert (fine.level, found.level) == ("ok", "FAIL")
    assert found.text.startswith("behind since ")
    assert "key:site failed: the disk is full" in found.text


class Quiet(Handler):
    """Says nothing of itself."""

    def handle(self, change: Change, context: Context) -> None:
        """Do nothing."""


def test_a_journal_that_cannot_be_used_fails(node: Path) -> None:
    """Whatever it is, agentd would not start with it."""
    (node.parent / "state").mkdir()
    (node.parent / "state" / "journal.db").write_bytes(b"not a database" * 100)

    found = check(node, {"use": f"{__name__}:Quiet"})

    assert [(one.level, one.subject) for one in found] == [("FAIL", "journal"), ("ok", "handler scribe")]


def test_a_journal_that_the_next_start_brings_up_to_date_is_left_as_it_is(node: Path) -> None:
    """It is worth a word, since an earlier agentd cannot use it after that."""
    file = node.parent / "state" / "journal.db"
    Journal(file).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 2")
    before = file.read_bytes()

    found, _ = check(node, {"use": f"{__name__}:Quiet"})

    assert (found.level, found.subject) == ("warn", "journal")
    assert file.read_bytes() == before


def test_a_drift_is_told_once(node: Path) -> None:
    """By the handler itself, not from the journal as well."""
    stand = Stand(node.parent)
    stand.worker(Scribe())
    stand.journal.database.rows("INSERT INTO drift VALUES ('scribe', 'ipset agentd4', 'it was flushed', 1.0)")
    stand.journal.close()

    (found,) = check(node, {"use": f"{__name__}:Doubtful"})

    assert found.text == "not in effect: ipset agentd4: it was flushed"
    assert Drift("ipset agentd4", "it was flushed") in Doubtful(Handler.Options()).verdict.drift  # type: ignore[union-attr]
