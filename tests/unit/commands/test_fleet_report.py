"""What `agentd fleet` shows of a large fleet, on a screen of any width, whatever the documents say."""

from __future__ import annotations

import io
import json
import shutil
from os import terminal_size
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.fleet_report import document, listed, show
from agentd.commands.output import Output
from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.census import Heads
from agentd.fleet.head import Head
from agentd.fleet.newest import Newest
from agentd.fleet.reading import Reading
from agentd.fleet.standing import Member, standing

NOW = 1_700_000_000.0


def found(count: int, wrong: dict[int, Name], notes: tuple[str, ...] = ()) -> Reading:
    """A fleet in which the nodes with these numbers have something else of `blocked` than the newest."""
    well = Name(live=20, tried=Tried(20, "applied"))
    every = [
        Member(
            f"lb{at:04}",
            Acknowledgement(
                "1", f"id{at}", "boot", NOW - 100,
                names={"blocked": wrong.get(at, well)},
                handlers={"blacklist": HandlerReport(("blocked",))},
            ),
            node_id=f"id{at}",
        )
        for at in range(count)
    ]  # fmt: skip
    newest = {"blocked": Newest("blocked", 20, NOW - 90, None, "lb7", "event")}
    heads = Heads({"blocked": Head("all", 20, 20, 1)}, {}, {})
    return Reading("prod", NOW, every, heads, newest, standing(every, newest, NOW), notes)


def shown(one: Reading, monkeypatch: pytest.MonkeyPatch, columns: int | None = None) -> list[str]:
    """The lines, on a terminal that is so wide or, without a width, in a file."""
    stream = io.StringIO()
    if columns is not None:
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: terminal_size((columns, 24)))
    monkeypatch.setattr(stream, "isatty", lambda: columns is not None)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    show(one, Output(stream))
    return stream.getvalue().splitlines()


def test_a_thousand_nodes_fit_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other one differs, each for a reason of its own."""
    wrong = {at: Name(live=10 + at % 7, tried=Tried(20, "refused", f"line {at}")) for at in range(0, 1000, 2)}
    lines = shown(found(1000, wrong), monkeypatch, columns=100)
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)
    assert lines[0] == "prod: 1000 nodes, 500 of them differ"
    assert any("for 496 other reasons" in line for line in lines)


def test_nodes_with_one_trouble_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names end in how many there are besides; what they have in force is a range."""
    wrong = {at: Name(live=at + 1, tried=Tried(20, "refused", "line 3")) for at in range(9)}
    lines = shown(found(20, wrong), monkeypatch, columns=120)
    (line,) = (each for each in lines if each.startswith("failed"))
    expected = "failed 9 blocked lb0000, lb0001, lb0002 and 6 more refused: line 3; has 1 to 9"
    assert " ".join(line.split()) == expected


def test_nothing_is_cut_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `grep` finds every node, and every reason."""
    reason = "a reason that is longer than any screen is wide, " * 5 + "end"
    wrong = {at: Name(tried=Tried(20, "refused", f"line {at}")) for at in range(0, 500, 2)}
    wrong |= {at: Name(tried=Tried(20, "failed", reason)) for at in range(500, 600)}
    lines = shown(found(1000, wrong), monkeypatch)
    assert all(sum(f"lb{at:04}" in line for line in lines) == 1 for at in range(1000))
    assert any("line 498" in line for line in lines)
    assert sum(reason in line for line in lines) == 1
    assert max(len(line) for line in lines if "line 4 " in line) < 400


def test_watch_shows_it_as_wide_as_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads from a pipe, and says in the environment how wide that is."""
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    show(found(1000, {at: Name() for at in range(300)}), Output(stream))
    assert max(map(len, stream.getvalue().splitlines())) <= 80


def test_those_that_agree_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who published the newest, from where and when, is another."""
    lines = shown(found(3, {1: Name()}), monkeypatch)
    assert "2 agree: lb0000, lb0002" in lines
    row = lines[-1].split()
    assert row[:5] == ["blocked", "20", "2", "of", "3"]
    assert lines[-1].endswith("lb7, an event")


def test_a_fleet_that_agrees_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its first line, and there is no table of differences."""
    lines = shown(found(3, {}), monkeypatch)
    assert lines[0] == "prod: 3 nodes, all agree"
    assert not any(line.startswith("TROUBLE") for line in lines)


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 80, 200])
def test_narrow_terminals_keep_trouble_and_count(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Names and reasons are cut first."""
    wrong = {at: Name(tried=Tried(20, "failed", "a reason " * 40)) for at in range(5)}
    lines = shown(found(9, wrong), monkeypatch, columns=columns)
    (line,) = (each for each in lines if each.startswith("failed"))
    assert line.split()[:2] == ["failed", "5"]
    assert len(line) <= max(columns, 70)


def test_a_program_gets_every_node_and_its_document() -> None:
    """Nothing is folded."""
    told: dict[str, Any] = json.loads(json.dumps(document(found(5, {1: Name(live=3)}, ("junk",)))))
    assert [(one["node"], one["trouble"]) for one in told["differences"]] == [("lb0001", "behind")]
    assert told["agreeing"] == ["lb0000", "lb0002", "lb0003", "lb0004"]
    assert told["documents"]["lb0001"]["names"]["blocked"]["live"] == 3
    assert told["names"][0]["live"] == [{"num": 3, "nodes": 1}, {"num": 20, "nodes": 4}]
    assert told["notes"] == ["junk"]


@given(st.lists(st.text("ab1-", min_size=1, max_size=30), min_size=1, max_size=50), st.integers(1, 200))
def test_a_list_of_names_has_at_least_one_and_counts_the_rest(names: list[str], room: int) -> None:
    """As many as fit."""
    text = listed(names, room)
    head, _, rest = text.rpartition(" and ")
    shown_names = (head or rest).split(", ")
    more = int(rest.split()[0]) if head else 0
    assert len(shown_names) + more == len(names)
    assert len(text) <= room or len(shown_names) == 1
