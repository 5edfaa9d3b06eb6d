"""What the pages say, and what they ask for it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings

from agentd.errors import AgentdError, ConsulUnavailable, JournalError
from agentd.fleet.freeze import Freeze
from agentd.fleet.reading import Reading
from agentd.fleet.standing import standing
from agentd.page.pages import PAUSE, Pages
from agentd.report.request import Response
from tests.pictures import example
from tests.unit.page.test_html import ANYTHING, Seen

NOW = 1_700_000_000.0


class Daemon:
    """What a daemon would tell, and how often it was asked."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = example.state(NOW)
        self.recent = example.recent(NOW)
        self.reading: Reading | None = example.reading(NOW)
        self.fault: AgentdError | None = None
        self.readings = 0
        self.slow = 0.0
        self.now = 0.0
        self.pages = Pages(self._told, lambda: self.recent, self._read, lambda: self.now)

    def _told(self) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        return self.state

    def _read(self) -> Reading | None:
        self.readings += 1
        self.now += self.slow
        if self.fault:
            raise self.fault
        return self.reading

    def text(self, path: str) -> str:
        """What a person reads on a page."""
        return Seen(self.pages.answer(path).body.decode()).text


@pytest.fixture
def daemon() -> Daemon:
    """A node of the fleet in the pictures."""
    return Daemon()


def _filled(value: Any, text: str) -> Any:  # noqa: ANN401 (any JSON)
    """The same, but with this text wherever there is one."""
    if isinstance(value, list):
        return [_filled(one, text) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, text) for key, one in value.items()}
    return text if isinstance(value, str) else value


def _skeleton(page: Response) -> list[tuple[str, list[str]]]:
    """The tags of a page, with the names of their attributes, whatever the order of the rows."""
    return sorted((tag, sorted(attributes)) for tag, attributes in Seen(page.body.decode()).tags)


def test_a_node_that_is_well_says_so(daemon: Daemon) -> None:
    """With its handlers, the ages of its keys, its last changes, and the time of all that."""
    text = daemon.text("/")

    for said in ("lb1", "All is well", "As of 20", "encrypting key", "4 h 1 m ago", "refused", "1207"):
        assert said in text


def test_what_is_wrong_stands_above_everything_else(daemon: Daemon) -> None:
    """In the same sentences as `agentd status` uses."""
    daemon.state = example.troubled(NOW)
    text = daemon.text("/")

    assert (
        text.index("3 things need attention") < text.index("2 addresses are missing") < text.index("Handlers")
    )


@settings(max_examples=10)
@given(ANYTHING)
def test_hostile_text_in_every_field_of_a_node_is_text(hostile: str) -> None:
    """Names of handlers, events and queries, reasons, parts: no tag comes or goes with them."""
    plain, attacked = Daemon(), Daemon()
    for one, text in ((plain, "x"), (attacked, hostile or "x")):
        one.state = example.troubled(NOW)
        handlers = {f"{text}{at}": value for at, value in enumerate(one.state["handlers"].values())}
        names = {f"{text}{at}": value for at, value in enumerate(one.state["fleet"]["names"].values())}
        fleet = one.state["fleet"] | {"names": names, "troubles": ["y"]}
        one.state = _filled(one.state | {"handlers": handlers, "fleet": fleet}, text)
        one.recent = _filled(one.recent, text)

    assert _skeleton(attacked.pages.answer("/")) == _skeleton(plain.pages.answer("/"))


@settings(max_examples=10)
@given(ANYTHING.filter(bool))
def test_hostile_text_in_every_field_of_a_fleet_is_text(hostile: str) -> None:
    """Names of nodes, fleets and publishers, reasons, versions, notes and the freeze."""
    pages = []
    for text in ("x", hostile):
        daemon = Daemon()
        assert daemon.reading is not None
        members = [
            replace(
                one,
                node=f"{text}{at}",
                document=one.document
                and replace(one.document, agentd=text, not_served=text, drift={text: text}, paused=text),
            )
            for at, one in enumerate(daemon.reading.members)
        ]
        freeze = Freeze(num=1, frozen=True, publisher=text, since=NOW, until=NOW, reason=text)
        judged = standing(members, daemon.reading.newest, NOW)
        newest = {f"{text}{at}": one for at, one in enumerate(daemon.reading.newest.values())}
        daemon.reading = replace(
            daemon.reading,
            fleet=text,
            members=members,
            newest=newest,
            notes=[text],
            freeze=freeze,
            standing=judged,
        )
        pages.append(daemon.pages.answer("/fleet"))

    assert _skeleton(pages[1]) == _skeleton(pages[0])


def test_the_fleet_shows_differences_first(daemon: Daemon) -> None:
    """Then the nodes, those that differ before the others, this one marked."""
    text = daemon.text("/fleet")

    nodes = text[text.index("Those that differ come first") :]
    assert text.index("2 of 6 nodes differ") < text.index("The worst first") < text.index("Those that differ")
    assert nodes.index("lb3") < nodes.index("lb5") < nodes.index("lb1 this node") < nodes.index("lb2")
    assert "kernel set agentd4: 2 addresses are missing" in text


def test_a_thousand_and_more_nodes_are_not_all_shown(daemon: Daemon) -> None:
    """And the page says how many are left out; of those with one trouble the first are named."""
    assert daemon.reading is not None
    one = daemon.reading.members[4]
    members = [replace(one, node=f"n{at:04}") for at in range(1200)]
    daemon.reading = replace(daemon.reading, members=members, standing=standing(members, {}, NOW))
    text = daemon.text("/fleet")

    assert "200 more are not shown" in text
    assert "and 1188 more" in text
    assert "n0999, and 200 more, see `agentd fleet`" in text
    assert "n1000" not in text


def test_many_looks_are_one_reading(daemon: Daemon) -> None:
    """Consul is asked once in two seconds, and not at all for the node's own page."""
    for _ in range(50):
        daemon.pages.answer("/fleet")
        daemon.pages.answer("/")
    assert daemon.readings == 1
    daemon.now += PAUSE
    daemon.pages.answer("/fleet")
    assert daemon.readings == 2


def test_a_fleet_that_takes_long_is_read_seldom(daemon: Daemon) -> None:
    """Whoever looks all the time has Consul asked for a fifth of the time."""
    daemon.slow = 10.0
    daemon.pages.answer("/fleet")
    daemon.now += 39.0
    daemon.pages.answer("/fleet")
    assert daemon.readings == 1
    daemon.now += 1.0
    daemon.pages.answer("/fleet")
    assert daemon.readings == 2


def test_a_consul_that_is_down_leaves_nothing_old_on_the_page(daemon: Daemon) -> None:
    """The answer is a 503 that says why; nor is a Consul that is down asked more often."""
    daemon.pages.answer("/fleet")
    daemon.now += PAUSE
    daemon.fault = ConsulUnavailable("127.0.0.1:8500: nothing is listening there")
    answers = [daemon.pages.answer("/fleet") for _ in range(3)]

    assert {one.status for one in answers} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert "nothing is listening there" in daemon.text("/fleet")
    assert "lb3" not in daemon.text("/fleet")
    assert daemon.readings == 2


def test_a_journal_that_cannot_be_read_is_told(daemon: Daemon) -> None:
    """The page says so, instead of an empty table."""
    daemon.fault = JournalError("the journal cannot be read: disk I/O error")

    assert daemon.pages.answer("/").status is HTTPStatus.SERVICE_UNAVAILABLE
    assert "disk I/O error" in daemon.text("/")


def test_a_node_without_a_fleet_has_one_page(daemon: Daemon) -> None:
    """No link leads to the other one, which says what to configure."""
    daemon.reading = None
    del daemon.state["fleet"]

    assert b'href="/fleet"' not in daemon.pages.answer("/").body
    assert daemon.pages.answer("/fleet").status is HTTPStatus.NOT_FOUND
    assert "fleet: {name: NAME}" in daemon.text("/fleet")


def _links(page: Response) -> Iterator[str]:
    for _, attributes in Seen(page.body.decode()).tags:
        yield from (value for name, value in attributes.items() if name in ("href", "src") and value)


@pytest.mark.parametrize("path", ["/", "/fleet"])
def test_nothing_comes_from_elsewhere(daemon: Daemon, path: str) -> None:
    """Every link leads to this listener; no script or style stands in the page."""
    page = daemon.pages.answer(path)

    assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in _links(page))
    assert not re.search(rb"<style|style=|<script>|\son\w+=", page.body)


@pytest.mark.parametrize(
    "path,kind", [("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")]
)
def test_what_a_page_loads_is_in_the_package(daemon: Daemon, path: str, kind: str) -> None:
    """With its type, as browsers are told not to guess."""
    answer = daemon.pages.answer(path)

    assert answer.content_type.startswith(kind)
    assert answer.body


def test_a_daemon_at_which_nobody_looks_does_without_the_pages() -> None:
    """Neither its start nor its memory pays for them, nor for TLS that is not configured."""
    lazy = ("agentd.page", "agentd.fleet.reading", "agentd.report.certificate")
    program = f"import sys, agentd.agent; print([one for one in {lazy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
