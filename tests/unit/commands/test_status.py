"""`agentd status`: from the daemon, or from what is on disk."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.commands import status as command
from agentd.commands.daemon_address import DaemonAddress
from agentd.commands.places import read_places
from tests.unit.commands.node import CommandNode

QUERY = {
    "query": "event",
    "last_contact": 0.0,
    "deliveries": 3,
    "missed": 0,
    "error": None,
    "held": None,
}
WELL = {
    "ready": True,
    "live": 7,
    "waiting": 0,
    "waiting_since": None,
    "waiting_reason": "",
    "last_failure": None,
    "next_due": None,
    "paused": None,
}
FAILURE = {"change": "x", "outcome": "refused", "reason": "no such list", "at": 1000.0}


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node that has not run yet."""
    return CommandNode(tmp_path, capsys)


SOUND: dict[str, Any] = {
    "pid": 42,
    "now": 1000.0,
    "version": "0.1.0",
    "generation": 7,
    "reload_pending": [7],
    "backlog": {},
    "not_ready": ["the journal"],
    "stuck": ["handler a"],
    "nginx_missing": "nginx is not running",
    "config_refused": ["a.yaml:3: unknown field"],
    "queries": [
        QUERY | {"odd": 2, "rest": 60.0, "error": "", "limited": "429", "held": "x", "alarming": True}
    ],
    "handlers": {
        "writer": WELL
        | {
            "waiting": 1,
            "waiting_since": 900.0,
            "last_failure": FAILURE,
            "next_due": 1010.0,
            "paused": {"since": 900.0, "until": 2000.0, "reason": "by hand"},
            "timer_trouble": "KeyError",
            "drift": [{"part": "key", "reason": "gone", "since": 900.0}],
            "status": [{"part": "feed", "since": 900.0, "next": 1100.0, "trouble": "404"}],
        }
    },
}


def places_in(document: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 (any JSON)
    """Each place of a document: the list or object that contains it, and its index or name."""
    for name in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, name
        if isinstance(document[name], dict | list):
            yield from places_in(document[name])


def daemon_says(monkeypatch: pytest.MonkeyPatch, **differs: Any) -> None:  # noqa: ANN401 (any JSON)
    """Let the daemon answer with a snapshot in which all is well but for `differs`."""
    now = time.time()
    snapshot = {
        "pid": 42,
        "now": now,
        "version": "0.1.0",
        "generation": 7,
        "reload_pending": [],
        "backlog": {},
        "not_ready": [],
        "stuck": [],
        "queries": [QUERY | {"last_contact": now - 5}],
        "handlers": {"writer": WELL},
    }
    monkeypatch.setattr(command, "_ask", lambda _loaded: snapshot | differs)


def test_node_that_never_ran_is_not_well(node: CommandNode) -> None:
    """Status 1, what to do, and no journal made by asking."""
    code, said, _ = node.command("status")
    assert code == 1
    assert "not running (from the journal and the tree)" in said
    assert "systemctl start agentd" in said
    assert not node.state.exists()


def test_stopped_daemon_is_told_from_disk(node: CommandNode) -> None:
    """Generation and backlog come from tree and journal, and the source is named."""
    node.commit(b"x")
    node.receive()
    told = node.json("status")
    assert (told["running"], told["source"], told["generation"]) == (False, "journal and tree", 1)
    assert told["backlog"] == {"writer": 1}
    assert (told["handlers"]["writer"]["waiting"], told["handlers"]["prover"]["waiting"]) == (1, 0)


def test_daemon_that_is_well_ends_with_0(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words: pid, generation, and contact by query."""
    daemon_says(monkeypatch)
    with node.daemon_runs():
        code, said, _ = node.command("status")
    assert code == 0
    assert "running (pid 42, version 0.1.0)" in said
    assert re.search(r"5\.\d s ago", said)


def test_ages_are_by_the_daemons_clock(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the system's clock was set, the daemon's shows something else for a while."""
    now = time.time() - 3600
    contact = {"last_contact": now - 5}
    waiting = WELL | {"waiting": 1, "waiting_since": now}
    daemon_says(
        monkeypatch,
        now=now,
        queries=[QUERY | contact],
        handlers={"a": waiting},
    )
    with node.daemon_runs():
        code, said, _ = node.command("status")
    assert code == 0, said
    assert re.search(r"5\.\d s ago", said)


@pytest.mark.parametrize(
    "odd, rest, said",
    [
        (1, 0.0, "1 item cannot be used, see the log\n"),
        (1000, 60.0, "1000 items cannot be used, see the log; asked every 1 m 0 s\n"),
    ],
)
def test_what_cannot_be_used_of_an_answer_is_told(
    odd: int, rest: float, said: str, node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how seldom Consul is asked because of it; the line is not cut."""
    daemon_says(monkeypatch, queries=[QUERY | {"odd": odd, "rest": rest}])
    with node.daemon_runs():
        _, told, _ = node.command("status")

    assert said in told


def test_handlers_that_fail_come_first(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then those that failed lately, then those that never did; among their parts and queries likewise."""
    recovered = FAILURE | {"recovered": True}
    daemon_says(
        monkeypatch,
        handlers={
            "a-fine": WELL,
            "b-failed-once": WELL | {"last_failure": recovered},
            "c-failed-lately": WELL | {"last_failure": recovered | {"at": 2000.0}},
            "d-fails": WELL | {"last_failure": FAILURE | {"at": 500.0}},
            "e-feeds": WELL | {"status": [{"part": "good"}, {"part": "bad", "trouble": "404"}]},
        },
        queries=[QUERY | {"query": "key:good"}, QUERY | {"query": "key:bad", "error": "no leader"}],
    )
    with node.daemon_runs():
        _, said, _ = node.command("status")
    rows = [line.split() for line in said.splitlines()]
    names = [row[1] for row in rows if row and row[0] in ("ok", "failed")]
    assert names == [
        *("d-fails", "e-feeds", "c-failed-lately", "b-failed-once", "a-fine"),
        *("e-feeds", "e-feeds", "key:bad", "key:good"),
    ]
    assert said.index(" bad ") < said.index(" good ")


def test_a_long_reason_is_whole_in_a_pipe(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error of Consul in the note of a query, or why a handler failed."""
    long = f"{'word ' * 100}end"
    daemon_says(
        monkeypatch,
        handlers={"a": WELL | {"last_failure": FAILURE | {"reason": long, "recovered": True}}},
        queries=[QUERY | {"held": long}],
    )
    with node.daemon_runs():
        _, said, _ = node.command("status")
    assert said.count(long) == 2


@pytest.mark.parametrize(
    "differs, said",
    [
        ({"not_ready": ["the first files of a are not committed"]}, "first files of a"),
        ({"stuck": ["handler a"]}, "handler a is stuck"),
        ({"queries": [QUERY | {"last_contact": None, "error": "no leader"}]}, "query event: no leader"),
        ({"queries": [QUERY | {"error": "the disk is full"}]}, "! query event: the disk is full"),
        (
            {"queries": [QUERY | {"query": f"key:{name}", "error": "no leader"} for name in "abcde"]},
            "! queries key:a, key:b, key:c and 2 more: no leader\n\n",
        ),
        (
            {"handlers": {"a": WELL | {"undone": [{"query": "key:k", "change": "key:k:1@2"}]}}},
            "! a: key:k was rolled back, and what Consul has is not in force: `agentd replay key:k:1@2`",
        ),
        ({"queries": [QUERY | {"held": "no right to read it", "alarming": True}]}, "no right to read it"),
        ({"nginx_missing": "nginx is not running"}, "nginx is not running"),
        ({"config_refused": ["a.yaml:3: unknown field"]}, "refused at the last reload"),
        ({"handlers": {"a": WELL | {"timer_trouble": "KeyError, see the log"}}}, "a: its timed work fails"),
        ({"reload_pending": [7]}, "nginx has not been proved to run generation 7"),
        (
            {"handlers": {"a": WELL | {"waiting": 2, "waiting_since": 1000.0}}},
            "a: 2 changes have been waiting",
        ),
        (
            {
                "handlers": {
                    "a": WELL | {"waiting": 1, "waiting_since": 1e9, "waiting_reason": "waits: no disk"}
                }
            },
            "a: 1 change has been waiting since 2001-09-09 01:46:40: no disk",
        ),
        ({"handlers": {"a": WELL | {"last_failure": FAILURE}}}, "a: the last change was refused"),
        (
            {"handlers": {"a": WELL | {"status": [{"part": "feed drop", "trouble": "404"}]}}},
            "a: feed drop: 404",
        ),
    ],
)
def test_what_is_not_well_ends_with_1(
    differs: dict[str, Any], said: str, node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, it is told."""
    daemon_says(monkeypatch, **differs)
    with node.daemon_runs():
        code, told, _ = node.command("status")
    assert code == 1
    assert said in told


def test_a_daemon_of_another_version_is_told(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were upgraded and it was not restarted: what it does not say is not made up."""
    old = {"generation": 7, "handlers": {"writer": {"live": 7}}, "queries": [{"query": "event"}]}
    monkeypatch.setattr(command, "_ask", lambda _places: command._filled(old))
    with node.daemon_runs():
        code, said, _ = node.command("status")
    assert code == 1
    assert "has a different version from this command: restart it" in said


@pytest.mark.parametrize(
    "odd",
    [None, True, "text", -1, 10**400, 1e308, [], [None], {}, {"a": None}, "\ud800\x1b[2J"],
    ids=lambda odd: repr(odd)[:20],
)
def test_whoever_answers_instead_of_the_daemon_gets_no_traceback(
    odd: object, node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is of another type in its answer: that is shown, or not taken for the daemon's."""
    listens = read_places(node.file)._replace(status=DaemonAddress("127.0.0.1", 1))
    monkeypatch.setattr(command, "read_places", lambda _file: listens)
    for number in range(len(list(places_in(SOUND)))):
        answer = copy.deepcopy(SOUND)
        container, name = list(places_in(answer))[number]
        container[name] = odd
        monkeypatch.setattr(command, "ask_daemon", lambda _address, answer=answer: answer)
        with node.daemon_runs():
            code, said, _ = node.command("status")
        assert code == 1
        assert "is running" in said or "running (pid" in said


def test_daemon_that_does_not_answer_is_told_from_disk(node: CommandNode) -> None:
    """It runs, its endpoints are switched off: journal and tree speak, and it is not called well."""
    node.commit(b"x")
    with node.daemon_runs():
        told = node.json("status")
    assert (told["running"], told["source"], told["generation"]) == (True, "journal and tree", 1)
    assert told["trouble"] == [
        "the daemon is running, but does not answer on its status address (status.address)"
    ]


def test_owed_reload_is_shown(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nginx does not run yet is named by its generation."""
    daemon_says(monkeypatch, reload_pending=[6, 7], backlog={"writer": 2})
    with node.daemon_runs():
        _, said, _ = node.command("status")
    assert "pending for generation 6, 7" in said


@pytest.mark.parametrize(
    "handler",
    [
        lambda: WELL | {"waiting": 3, "waiting_since": time.time()},
        lambda: WELL | {"last_failure": FAILURE | {"recovered": True}},
        lambda: (
            WELL | {"status": [{"part": "feed", "since": 1000.0, "next": time.time() + 99, "trouble": ""}]}
        ),
    ],
)
def test_what_is_in_hand_or_over_is_no_trouble(
    handler: Callable[[], dict[str, Any]], node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that has just begun, a failure that was made good, a feed that answers: all is well."""
    daemon_says(monkeypatch, handlers={"a": handler()})
    with node.daemon_runs():
        code, said, _ = node.command("status")
    assert (code, said.splitlines()[0]) == (0, "All is well.")


def test_what_is_wrong_comes_first(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else, and again in the first column of its row."""
    daemon_says(monkeypatch, handlers={"a": WELL | {"last_failure": FAILURE}, "b": WELL | {"next_due": 1.0}})
    with node.daemon_runs():
        _, said, _ = node.command("status")
    assert said.startswith("! a: the last change was refused")
    rows = [line.split()[:2] for line in said.splitlines() if line.startswith(("failed", "ok"))]
    assert rows == [["failed", "a"], ["ok", "b"], ["ok", "event"]]


def test_what_failed_in_parts_is_told_once(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds that failed are listed one by one, and not again as the reason of the last change."""
    parts = [{"part": f"feed {name}", "trouble": "404"} for name in ("one", "two")]
    failure = FAILURE | {"reason": "feed one: 404; feed two: 404"}
    daemon_says(monkeypatch, handlers={"a": WELL | {"last_failure": failure, "status": parts}})

    with node.daemon_runs():
        _, said, _ = node.command("status")

    assert re.findall("^! (.*)", said, re.MULTILINE) == ["a: feed one: 404", "a: feed two: 404"]
