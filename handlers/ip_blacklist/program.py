"""Asks a program that changes nothing, also where `context.run` runs none: in the child, and for `why`.

Imports nothing of agentd but its errors, so that the child starts quickly.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

from agentd.errors import TemporaryError

_QUOTED: Final = 300  # characters
_SECONDS: Final = 30.0  # a million elements of nftables take 7 s


def ask(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run it, in English, and return its status and all that it prints; what is no text, replaced.

    Raises:
        TemporaryError: it cannot be run, was killed, or did not end in time.
    """
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise TemporaryError(f"{argv[0]} does not exist; install it or correct its path") from error
    except subprocess.TimeoutExpired as error:
        raise TemporaryError(
            f"`{' '.join(argv)}` did not end within {_SECONDS:g} s and was killed"
        ) from error
    except OSError as error:
        raise TemporaryError(f"{argv[0]} cannot be run: {error}") from error
    if done.returncode < 0:
        raise TemporaryError(f"`{' '.join(argv)}` was ended by signal {-done.returncode}")
    return done


def failure(done: subprocess.CompletedProcess[str]) -> TemporaryError:
    """What to raise for a program that ended with a status that says nothing that is expected."""
    said = " ".join(done.stderr.split())[-_QUOTED:] or "it printed no error"
    return TemporaryError(f"`{' '.join(done.args)}` ended with status {done.returncode}: {said}")
