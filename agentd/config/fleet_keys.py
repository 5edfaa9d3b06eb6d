"""Reads the fleet keys that a configuration names, so that a wrong one is noticed when it is loaded."""

from __future__ import annotations

from dataclasses import replace

from agentd.config.load import Loaded
from agentd.config.sections import read_document
from agentd.errors import BadKey, ConfigError
from agentd.trust.configured import read_fleet_keys


def with_fleet_keys(loaded: Loaded) -> Loaded:
    """The configuration, with the keys that `trust.fleet_keys` names.

    Raises:
        ConfigError: one of them cannot be used.
    """
    trust = loaded.config.trust
    if trust is None:
        return loaded
    try:
        return replace(loaded, fleet_keys=read_fleet_keys(trust))
    except BadKey as error:
        place = ("trust", "fleet_keys")
        problem = str(error).removeprefix("fleet_keys: ")
        raise ConfigError([read_document(loaded.path).problem(place, problem)]) from error
