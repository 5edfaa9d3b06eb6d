"""The example of a configuration for `deploy` is one."""

from __future__ import annotations

import re
from pathlib import Path

from agentd.config.load import load
from handlers.deploy.handler import Deploy
from handlers.deploy.options import DeployOptions

EXAMPLE = Path(__file__).parents[4] / "config" / "examples" / "deploy.yaml"


def test_the_example_is_accepted() -> None:
    """As it stands."""
    (configured,) = load(EXAMPLE).handlers

    assert isinstance(configured.build(), Deploy)


def test_the_example_shows_every_option_with_its_default(tmp_path: Path) -> None:
    """Those that are commented out, too."""
    shown = re.sub(r"(?m)^ {6}# (\w+: )", r"      \1", EXAMPLE.read_text())
    whole = tmp_path / "agentd.yaml"
    whole.write_text(shown)
    (configured,) = load(whole).handlers
    options, defaults = configured.options, DeployOptions()
    commented = set(re.findall(r"(?m)^ {6}# (\w+): ", EXAMPLE.read_text()))

    assert isinstance(options, DeployOptions)
    assert options.model_fields_set == set(DeployOptions.model_fields)
    assert {name: getattr(options, name) for name in commented} == {
        name: getattr(defaults, name) for name in commented
    }
