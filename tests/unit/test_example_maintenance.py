"""The example in config/examples, and how to test a handler of your own: without Consul and nginx."""

from __future__ import annotations

import pytest

from agentd.handler import PermanentError
from agentd.testing import HandlerHarness, event, key
from config.examples.maintenance.maintenance import Maintenance

INCLUDE = "maintenance/maintenance.conf"


@pytest.fixture
def harness() -> HandlerHarness:
    """A node that has started."""
    made = HandlerHarness(Maintenance)
    made.initial()
    return made


def test_open_before_any_change(harness: HandlerHarness) -> None:
    """Nginx knows the variable from the start, and it is empty."""
    assert harness.files == {INCLUDE: b'map "" $maintenance {\n    default "";\n}\n'}


def test_text_of_the_key(harness: HandlerHarness) -> None:
    """The key's text is what nginx answers."""
    assert harness.handle(key("site/maintenance", "Back at 14:00.\n")) == (INCLUDE,)
    assert b'default "Back at 14:00.";' in harness.files[INCLUDE]


def test_deleted_key(harness: HandlerHarness) -> None:
    """Deleting the key opens the site again."""
    before = harness.files
    harness.handle(key("site/maintenance", "Back at 14:00."))

    harness.handle(key("site/maintenance", None))

    assert harness.files == before


def test_restart_keeps_the_text(harness: HandlerHarness) -> None:
    """A start before Consul answers does not open a closed site."""
    harness.handle(key("site/maintenance", "Back at 14:00."))
    harness.restart()

    assert harness.initial() == ()


@pytest.mark.parametrize("text", ['"; } evil on;', "costs $100", "a\\", "two\nlines", "x" * 501, b"\xff"])
def test_refused_text(harness: HandlerHarness, text: str | bytes) -> None:
    """A text that nginx could take for configuration changes nothing."""
    before = harness.files

    with pytest.raises(PermanentError):
        harness.handle(key("site/maintenance", text))

    assert harness.files == before


def test_other_changes(harness: HandlerHarness) -> None:
    """Another kind of change is the configuration's mistake, and the refusal says so."""
    with pytest.raises(PermanentError, match="handles keys"):
        harness.handle(event("site/maintenance"))


def test_variable_of_your_choice() -> None:
    """The option names nginx's variable."""
    harness = HandlerHarness(Maintenance, {"variable": "closed"})

    harness.initial()

    assert harness.files[INCLUDE].startswith(b'map "" $closed {')
