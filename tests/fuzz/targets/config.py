"""The configuration, and the watches of a Consul agent that are translated into one."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

from agentd.config import load as loading
from agentd.config.plugins import available, resolve
from agentd.config.yaml_document import Document
from agentd.errors import ConfigError
from agentd.handler import Handler
from agentd.import_watches import import_watches
from tests.fuzz.target import target


@cache
def _handlers() -> dict[str, type[Handler]]:
    return {name: resolve(name) for name in available()}


def _built_in(use: str) -> type[Handler]:
    """Only these: a fuzzer must not have modules imported at will."""
    if use not in _handlers():
        raise ConfigError([f"there is no handler {use!r}"])
    return _handlers()[use]


@target(ConfigError)
def config(data: bytes) -> None:
    """A whole agentd.yaml, with the options of the built-in handlers."""
    with (
        tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory,
        patch("agentd.config.load.resolve", _built_in),
        patch("agentd.config.load.search", lambda _: []),
    ):
        file = Path(directory, "agentd.yaml")
        file.write_bytes(data)
        for handler in loading.load(file).handlers:
            assert handler.name


@target(ConfigError, structured=True)
def watches(data: bytes) -> None:
    """What `agentd import-watches` is given; what it writes is YAML of the same handlers."""
    text = import_watches(data.decode(errors="surrogateescape"))
    written = Document(text, "written").data
    assert isinstance(written["handlers"], dict)
