"""Shifts the wall clock of a Python process by what the file AGENTD_CLOCK_OFF says, in seconds.

Python imports it at the start of a process that has this directory in PYTHONPATH. The file is read at every
look at the clock, so that a test sets the clock of a running daemon as NTP does.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_FILE = Path(os.environ["AGENTD_CLOCK_OFF"])
_time = time.time


def _shifted() -> float:
    return _time() + float(_FILE.read_text())


time.time = _shifted
