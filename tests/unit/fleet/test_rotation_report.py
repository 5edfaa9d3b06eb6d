"""How far a rotation is, from acknowledgements in which anything may stand."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.rotation_report import OVERDUE, rotations
from agentd.fleet.standing import Member


def member(node: str, live: int, rotation: Any, **fields: Any) -> Member:  # noqa: ANN401 (any JSON)
    """A node that has this message in force, and reports this."""
    report = {} if rotation is None else {"rotation": rotation}
    handlers = {"keys": HandlerReport(names=("tickets",), report=report)}
    names = {"tickets": Name(live=live, tried=Tried(live, "applied"))}
    return Member(node, Acknowledgement("1", node, "b", 1.0, names=names, handlers=handlers, **fields))


def step(num: int, phase: str = "staged") -> dict[str, Any]:
    """What a node reports that has taken this document."""
    return {"phase": phase, "since": 100, "num": num}


def test_the_newest_document_is_waited_for_by_name() -> None:
    """Where it is not in force, with the reason."""
    nodes = [member("a", 20, step(20)), member("b", 10, step(10, "idle")), member("c", 10, None, stopped=1.0)]
    (found,) = rotations(nodes)
    assert (found.handler, found.phase, found.since, found.num) == ("keys", "staged", 100, 20)
    assert [(one.node, one.reason) for one in found.waits] == [
        ("b", "has not started on it"),
        ("c", "agentd is stopped"),
    ]
    assert (found.overdue(100 + OVERDUE - 1), found.overdue(100 + OVERDUE)) == (False, True)


def test_a_confirmed_rotation_is_never_overdue() -> None:
    """However long ago it was."""
    (found,) = rotations([member("a", 20, step(20, "idle"))])
    assert (found.is_under_way, found.overdue(10**9), found.waits) == (False, False, ())


@pytest.mark.parametrize(
    "reported",
    [
        None,
        1,
        [],
        {},
        {"phase": "staged"},
        step(0),
        step(10**17),
        step(1, "\x1b"),
        step(1) | {"num": True},
        step(1) | {"since": -1},
    ],
)
def test_junk_is_no_rotation(reported: Any) -> None:  # noqa: ANN401 (any JSON)
    """Nor does it hide that of others."""
    assert rotations([member("a", 1, reported)]) == []
    assert len(rotations([member("a", 1, reported), member("b", 5, step(5))])) == 1


@pytest.mark.parametrize("made_up", [step(99, "idle"), step(20, "idle"), step(20) | {"since": 7}])
def test_one_node_does_not_make_up_a_step(made_up: dict[str, Any]) -> None:
    """One that the log does not have, or another one than most nodes took."""
    nodes = [member("a", 99, made_up), member("b", 20, step(20)), member("c", 20, step(20))]
    (found,) = rotations(nodes, {"tickets": 20})
    assert (found.phase, found.num, found.since) == ("staged", 20, 100)


def test_what_consul_has_lost_is_shown_all_the_same() -> None:
    """Nodes have it."""
    (found,) = rotations([member("a", 20, step(20))], {"tickets": 10})
    assert found.num == 20
