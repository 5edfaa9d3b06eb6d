"""The exception tree."""

from __future__ import annotations

import agentd.errors
from agentd.errors import AgentdError, ConfigError, TemporaryError


def test_everything_raised_on_purpose_has_one_root() -> None:
    """Catching it catches all."""
    kinds = [kind for kind in vars(agentd.errors).values() if isinstance(kind, type)]

    assert all(issubclass(kind, AgentdError) for kind in kinds if issubclass(kind, Exception))


def test_the_tree_at_the_top_of_the_module_is_whole() -> None:
    """Each class is drawn there."""
    names = [name for name, kind in vars(agentd.errors).items() if isinstance(kind, type)]

    assert [name for name in names if name not in (agentd.errors.__doc__ or "")] == []


def test_a_config_error_is_all_of_its_problems() -> None:
    """One a line."""
    assert str(ConfigError(["a", "b"])) == "a\nb"


def test_a_temporary_error_may_say_when() -> None:
    """Or leave it to the worker."""
    assert TemporaryError("busy").retry_after is None
    assert TemporaryError("busy", 5.0).retry_after == 5.0
