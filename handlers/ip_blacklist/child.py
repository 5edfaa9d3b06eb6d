"""The program that works on large lists: a job as JSON on standard input, the results in the job's directory.

A list of a million entries takes 100 MB while it is worked on, which the daemon would not get rid of again.
Nothing imports this module.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from handlers.ip_blacklist.bulk import Job, compile_list
from handlers.ip_blacklist.union import UnionJob, write_union


def main() -> None:
    """Do the job, which the argument names: compile or union."""
    gc.disable()  # millions of objects and no cycles: collecting would more than double the time
    if sys.argv[1] == "union":
        write_union(UnionJob(**json.load(sys.stdin)))
    else:
        job = Job(**json.load(sys.stdin))
        compile_list(job).write(Path(job.directory))


if __name__ == "__main__":
    main()
