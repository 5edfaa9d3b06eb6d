"""What a node acknowledges of pauses and freezes."""

from __future__ import annotations

from agentd.fleet.acknowledgement import HandlerReport, Name
from agentd.fleet.condition import Condition
from agentd.fleet.followed_freeze import FollowedFreeze
from agentd.fleet.freeze import NAME, render_freeze
from agentd.fleet.gate import Gate
from agentd.fleet.hindrance import hindered
from agentd.fleet.kept_name import Kept, NameStatus
from agentd.journal.pauses import Paused
from tests.unit.fleet.shelf import NOW, Shelf

KEPT = {
    "ban": Kept("ban", latest=False, handlers={"deny": False}),
    "web": Kept("web", latest=True, handlers={"site": True}),
}
CONDITION = Condition(
    generation=1,
    names={"ban": Name(live=5), "web": Name(live=7)},
    handlers={"deny": HandlerReport(), "site": HandlerReport()},
    options={},
    drift={},
)


def freezing(*, frozen: bool | None) -> FollowedFreeze:
    """With `ban` as the urgent name; None: nobody ever froze."""
    made = FollowedFreeze(
        Gate(None),
        is_urgent=lambda name: name == "ban",
        refused=lambda _name, _reason: None,
        changed=lambda: None,
        clock=lambda: NOW,
    )
    if frozen is not None:
        body = render_freeze("night", frozen=frozen)
        made.recall([Shelf().publish(NAME, body, kind="freeze", publisher="ops@admin")])
    return made


def test_a_node_that_goes_on_says_nothing() -> None:
    """Neither of pauses nor of a freeze that never was."""
    found = hindered(CONDITION, KEPT, {}, lambda _name: None, freezing(frozen=None))
    assert found == CONDITION


def test_a_paused_handler_hinders_its_names() -> None:
    """Not others; the node as a whole says which handler, since when, and why."""
    pauses = {"deny": Paused(0.0, None, "db work")}
    found = hindered(CONDITION, KEPT, {}, pauses.get, freezing(frozen=None))

    text = "deny is paused since 1970-01-01T00:00:00Z: db work"
    assert (found.names["ban"].waits, found.names["ban"].held) == (text, True)
    assert (found.names["web"].waits, found.names["web"].held) == ("", False)
    assert found.paused == text


def test_a_freeze_hinders_what_is_not_urgent_before_anything_comes() -> None:
    """So that whoever publishes learns at once that it is held back; and it is acknowledged itself."""
    found = hindered(CONDITION, KEPT, {}, lambda _name: None, freezing(frozen=True))

    assert (found.names["web"].waits, found.names["web"].held) == ("frozen by ops@admin: night", True)
    assert (found.names["ban"].waits, found.names["ban"].held) == ("", False)
    assert found.names[NAME].live == 1
    assert found.paused == ""


def test_a_thaw_is_acknowledged_as_well() -> None:
    """And hinders nothing."""
    found = hindered(CONDITION, KEPT, {}, lambda _name: None, freezing(frozen=False))
    assert (found.names["web"].held, found.names[NAME].live) == (False, 1)


def test_what_else_the_log_waits_for_comes_first() -> None:
    """A thaw would not help."""
    statuses = {"web": NameStatus(waits="message 8 has a newer format")}
    found = hindered(CONDITION, KEPT, statuses, lambda _name: None, freezing(frozen=True))
    assert found.names["web"].waits == "message 8 has a newer format"
