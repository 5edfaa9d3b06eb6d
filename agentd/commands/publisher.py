"""Who publishes, as messages of the log say."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Final

from agentd.printable import printable

_LONGEST: Final = 200  # characters


def publisher() -> str:
    """Who publishes, as USER@HOST."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # this user has no name
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}")[:_LONGEST]
