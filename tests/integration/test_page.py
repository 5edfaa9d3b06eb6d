"""The pages in a real browser: nothing breaks, nothing of an outsider runs, and nothing old looks new."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentd.errors import ConsulUnavailable
from agentd.fleet.reading import Reading
from agentd.page import pages
from agentd.report.status import Status
from tests.pictures import example
from tests.pictures.page import chromium, serving
from tests.servers.equipment import require
from tests.servers.tls import Certificate

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOKEN = "correct-horse-battery-staple"
HOSTILE = (
    '<script>window.stolen = 1</script>"><img src=x onerror="window.stolen = 2">'
    "javascript:window.stolen=3 \u202egnp.exe 😀 مرحبا " + "long" * 250
)


class Node:
    """What the listener shows; tests change it."""

    def __init__(self) -> None:
        self.text = ""
        self.down = False
        self.pictured = example.state

    def state(self) -> dict[str, Any]:
        """At /status."""
        state = self.pictured(time.time())
        if self.text:
            state["handlers"] = {self.text: state["handlers"]["ticket-keys"]}
            state["not_ready"] = [self.text]
            state["fleet"] |= {"name": self.text, "node": self.text}
        return state

    def recent(self) -> list[dict[str, Any]]:
        """In its history."""
        rows = example.recent(time.time())
        return [row | {"name": self.text, "reason": self.text} for row in rows] if self.text else rows

    def reading(self) -> Reading:
        """Of the fleet."""
        if self.down:
            raise ConsulUnavailable("127.0.0.1:8500: nothing is listening there")
        return example.reading(time.time())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all."""
    require("chromium")
    with chromium() as started:
        yield started


@pytest.fixture
def node() -> Node:
    """A node of the example's fleet."""
    return Node()


@pytest.fixture
def listener(node: Node) -> Iterator[Status]:
    """Its listener."""
    with serving(node.state, node.recent, node.reading) as status:
        yield status


@pytest.fixture
def page(browser: Browser, listener: Status) -> Iterator[Page]:
    """A window that has the node's page open; whatever Chromium complains of fails the test."""
    assert listener.address is not None
    complaints: list[str] = []
    with ExitStack() as stack:
        context = browser.new_context(base_url=f"http://127.0.0.1:{listener.address[1]}")
        stack.callback(context.close)
        opened = context.new_page()
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.clock.install()
        opened.goto("/")
        yield opened
    expected = re.compile(r"status of 503|net::ERR_(CONNECTION_|EMPTY_RESPONSE)")
    assert [one for one in complaints if not expected.search(one)] == []


def test_the_links_lead_from_page_to_page(page: Page) -> None:
    """By mouse and by keyboard, and each page has its title."""
    page.get_by_role("link", name="Fleet").click()
    assert page.title() == "Fleet edge · agentd"
    assert page.get_by_role("heading", name="2 of 6 nodes differ").is_visible()

    page.get_by_role("link", name="This node").press("Enter")
    assert page.title() == "lb1 · agentd"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"


def test_it_refreshes_itself_and_leaves_the_reader_where_he_is(page: Page, node: Node) -> None:
    """Focus and scroll stay; what is new is there."""
    page.set_viewport_size({"width": 390, "height": 600})
    page.get_by_role("link", name="/metrics").focus()
    page.evaluate("window.scrollTo(0, 700)")
    node.pictured = example.troubled

    page.clock.run_for(6000)

    page.get_by_text("2 addresses are missing").first.wait_for()
    assert page.evaluate("window.scrollY") > 500
    assert page.evaluate("document.activeElement.textContent") == "/metrics"


def test_it_says_so_while_it_cannot_be_refreshed(
    page: Page, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; what is shown stays, marked as old, until there is something new."""
    monkeypatch.setattr(pages, "PAUSE", 0.0)
    page.goto("/fleet")
    node.down = True
    page.clock.run_for(6000)
    refresh = page.get_by_role("status")
    refresh.get_by_text("because Consul does not answer. What is shown is old.").wait_for()
    assert page.get_by_role("rowheader", name="lb3").is_visible()

    node.down = False
    page.clock.run_for(6000)
    refresh.get_by_text("Refreshed every 5 seconds").wait_for()


def test_it_says_so_when_agentd_has_gone(page: Page, listener: Status) -> None:
    """A daemon that was stopped leaves no green page behind."""
    listener.stop()
    page.clock.run_for(6000)

    page.get_by_role("status").get_by_text("agentd does not answer. What is shown is old.").wait_for()
    assert page.evaluate("document.documentElement.className") == "old"


def test_a_reader_may_pause_it(page: Page, node: Node) -> None:
    """Then nothing moves, and the page says that it may be old, until he goes on."""
    page.get_by_role("button", name="Pause").click()
    node.pictured = example.troubled
    page.clock.run_for(20000)
    assert page.get_by_text("All is well").is_visible()
    assert page.get_by_text("Paused: what is shown may be old").is_visible()

    page.get_by_role("button", name="Go on").click()
    page.get_by_text("2 addresses are missing").first.wait_for()


@pytest.mark.parametrize("width", [390, 1280])
def test_what_an_outsider_wrote_neither_runs_nor_breaks_the_page(page: Page, node: Node, width: int) -> None:
    """Tags, quotes, scripts, directions, emoji and a thousand characters, on a phone as well."""
    page.set_viewport_size({"width": width, "height": 800})
    node.text = HOSTILE
    page.goto("/")
    page.clock.run_for(6000)

    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0
    assert page.evaluate("window.stolen") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_works_without_javascript(browser: Browser, listener: Status) -> None:
    """All that it says is in the page itself."""
    assert listener.address is not None
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{listener.address[1]}/fleet")
        assert page.get_by_role("rowheader", name="lb5").is_visible()
        assert page.get_by_role("button").count() == 0


def test_a_browser_gets_in_by_https_with_the_token(
    browser: Browser, node: Node, certificate: Certificate, tmp_path: Path
) -> None:
    """Asked for a password, it sends the token, for what the page loads and for its refreshes too."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    for secret in (token, certificate.key):
        secret.chmod(0o600)
    section = {"cert_file": certificate.certificate, "key_file": certificate.key, "token_file": token}
    with serving(node.state, node.recent, node.reading, **section) as status, ExitStack() as stack:
        assert status.address is not None

        def opened(password: str) -> Page:
            context = browser.new_context(
                base_url=f"https://localhost:{status.address[1] if status.address else 0}",
                ignore_https_errors=True,
                http_credentials={"username": "ops", "password": password},
            )
            stack.callback(context.close)
            page = context.new_page()
            page.clock.install()
            page.goto("/")
            return page

        assert "Unauthorized" in opened("wrong-token-of-some-length").inner_text("body")
        page = opened(TOKEN)
        assert page.get_by_text("All is well").is_visible()
        node.pictured = example.troubled
        page.clock.run_for(6000)
        page.get_by_text("2 addresses are missing").first.wait_for()
