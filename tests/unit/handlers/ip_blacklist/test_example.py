"""The example of feeds and outputs is a configuration that agentd accepts."""

from __future__ import annotations

from pathlib import Path

import yaml

from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.loader import BlacklistLoader

EXAMPLE = Path(__file__).parents[4] / "config" / "examples" / "blacklist-feeds.yaml"


def test_the_options_are_valid() -> None:
    """Both handlers take the options that the example gives them."""
    handlers = yaml.safe_load(EXAMPLE.read_text())["handlers"]

    options = IPBlacklist.Options.model_validate(handlers["blacklist"]["options"])
    loader = BlacklistLoader.Options.model_validate(handlers["blacklist-loader"]["options"])

    assert sorted(options.lists) == ["drop", "level1", "local"]
    assert set(loader.load) == set(options.outputs)
