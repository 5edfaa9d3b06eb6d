"""The program that compiles a list: a job as JSON on standard input, the report beside the files.

A list of a million entries takes 100 MB while it is worked on, which the daemon would not get rid of again.
Nothing imports this module.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from handlers.ip_blacklist.bulk import Job, compile_list


def main() -> None:
    """Do the job."""
    gc.disable()  # millions of objects and no cycles: collecting would more than double the time
    job = Job(**json.load(sys.stdin))
    compile_list(job).write(Path(job.directory))


if __name__ == "__main__":
    main()
