"""`python -m agentd` is `agentd`, and like it imports nothing from the directory in which it was typed.

Only a module called agentd there, or as one that Python's own `-m` needs (importlib), comes before this one;
that takes Python itself: `python -P -m agentd`.
"""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working directory: anybody may have put a module there

from agentd.cli import main

if __name__ == "__main__":
    sys.exit(main())
