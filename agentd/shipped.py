"""Finds the data files that come with agentd: configuration, examples, units, nginx includes, Lua.

They are below one directory, as in the repository: `config/...` and `systemd/...`. Where that is depends on
how agentd was installed; neither the working directory nor the environment has a say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.errors import AgentdError

_MARK: Final = "config/agentd.yaml"
_BELOW: Final = "share/agentd"
_CODE: Final = Path(__file__).resolve().parents[1]


def directory(code: Path = _CODE) -> Path:
    """The directory with `config/` and `systemd/`.

    Args:
        code: the directory that the package `agentd` is in.

    Raises:
        AgentdError: this installation has none.
    """
    tried = places(code)
    for place in tried:
        if (place / _MARK).is_file():
            return place
    raise AgentdError(
        f"the files that come with agentd are in none of {', '.join(map(str, tried))}:"
        " install agentd again, from its package or its wheel"
    )


def places(code: Path = _CODE) -> list[Path]:
    """Where they may be, the likeliest first.

    - In a checkout beside the code, also when an editable install left a copy elsewhere.
    - Below the code, after `pip install --target`.
    - /usr/share/agentd of the Debian package, whose code is in /usr/lib/agentd.
    - PREFIX/share/agentd of any other install, whose code is in PREFIX/lib/python3.11/site-packages.
    """
    if (code / "pyproject.toml").is_file():
        return [code]
    found = [code / _BELOW]
    if code.parent.name == "lib":
        found.append(code.parents[1] / _BELOW)
    if code.name in ("site-packages", "dist-packages"):
        found.append(code.parents[2] / _BELOW)
    return found


def file(name: str) -> Path:
    """One of them, by its path in the repository, such as "systemd/agentd.service". Raises AgentdError."""
    return directory() / name
