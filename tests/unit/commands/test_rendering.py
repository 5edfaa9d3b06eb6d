"""Which empty answers of Consul `agentd render` takes for a state, as the daemon does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agentd.commands.current_states import NOTHING, States
from agentd.commands.rendering import render
from agentd.config.load import load
from agentd.journal.journal import Journal
from agentd.watch.changes import KeyState

GONE = KeyState("key:motd", None, 9)
THERE = KeyState("key:motd", {"Key": "motd", "Value": "YQ=="}, 5)
TEXT = '{{ key_or_default("motd", "nothing") }}'


@pytest.mark.parametrize(
    "seen, content, held",
    [((), b"nothing", False), ((THERE, GONE), b"nothing", False), ((THERE,), b"a", True)],
    ids=["never there", "seen to go", "not seen to go"],
)
def test_nothing_is_a_state_if_the_daemon_takes_it_for_one(
    tmp_path: Path, seen: tuple[KeyState, ...], content: bytes, *, held: bool
) -> None:
    """A deleted key is not shown as if it were there, nor one that may only be hidden as if it were gone."""
    file = tmp_path / "agentd.yaml"
    entry = {"use": "template", "on": [{"key": "motd"}], "options": {"files": [{"text": TEXT, "path": "m"}]}}
    settings = {"tree": {"path": str(tmp_path / "tree")}, "state": str(tmp_path), "nginx": None}
    file.write_text(yaml.safe_dump(settings | {"handlers": {"motd": entry}}))
    journal = Journal(tmp_path / "journal.db")
    for one in seen:
        journal.queue("motd", one)
    journal.close()
    loaded = load(file)

    made = render(loaded, loaded.handlers[0], States([], {"key:motd": NOTHING}, [GONE]))

    assert bool(made.held) is held
    assert [one.content for one in made.files] == [content]
