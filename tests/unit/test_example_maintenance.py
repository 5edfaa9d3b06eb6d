"""The example in config/examples, and how to test a handler of your own: without Consul and nginx."""

from __future__ import annotations

import pytest

from agentd.handler import PermanentError
from agentd.testing import HandlerBench, event, key
from config.examples.maintenance import Maintenance

INCLUDE = "maintenance/maintenance.conf"


@pytest.fixture
def bench() -> HandlerBench:
    """A node that has started."""
    made = HandlerBench(Maintenance)
    made.initial()
    return made


def test_open_before_any_change(bench: HandlerBench) -> None:
    """Nginx knows the variable from the start, and it is empty."""
    assert bench.files == {INCLUDE: b'map "" $maintenance {\n    default "";\n}\n'}


def test_text_of_the_key(bench: HandlerBench) -> None:
    """The key's text is what nginx answers."""
    assert bench.handle(key("site/maintenance", "Back at 14:00.\n")) == (INCLUDE,)
    assert b'default "Back at 14:00.";' in bench.files[INCLUDE]


def test_deleted_key(bench: HandlerBench) -> None:
    """Deleting the key opens the site again."""
    before = bench.files
    bench.handle(key("site/maintenance", "Back at 14:00."))

    bench.handle(key("site/maintenance", None))

    assert bench.files == before


def test_restart_keeps_the_text(bench: HandlerBench) -> None:
    """A start before Consul answers does not open a closed site."""
    bench.handle(key("site/maintenance", "Back at 14:00."))
    bench.restart()

    assert bench.initial() == ()


@pytest.mark.parametrize("text", ['"; } evil on;', "costs $100", "a\\", "two\nlines", "x" * 501, b"\xff"])
def test_refused_text(bench: HandlerBench, text: str | bytes) -> None:
    """A text that nginx could take for configuration changes nothing."""
    before = bench.files

    with pytest.raises(PermanentError):
        bench.handle(key("site/maintenance", text))

    assert bench.files == before


def test_other_changes(bench: HandlerBench) -> None:
    """Another kind of change is the configuration's mistake, and the refusal says so."""
    with pytest.raises(PermanentError, match="takes a key"):
        bench.handle(event("site/maintenance"))


def test_variable_of_your_choice() -> None:
    """The option names nginx's variable."""
    bench = HandlerBench(Maintenance, {"variable": "closed"})

    bench.initial()

    assert bench.files[INCLUDE].startswith(b'map "" $closed {')
