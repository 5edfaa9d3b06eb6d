"""How many examples Hypothesis tries of each property."""

from __future__ import annotations

import os
from typing import Final

LOOKS: Final = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
"""As many as somebody asks for, to look deeper; 0: as many as are enough for every run of the suite."""
