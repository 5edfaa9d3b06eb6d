"""Where the work on lists runs: in the daemon if it is little, else in a separate program under limits.

A list of a million entries takes 100 MB while it is worked on, which the daemon would never give back, and
JSON takes up to 40 times its size. What is read in the daemon is read in linear time, and bounded: 256 KiB of
plain lines, or a part of that as JSON, or a thousand ranges. The program gets the kind of job and its limits
as arguments and the job as JSON on standard input, and leaves its results in the job's directory, or prints
them. It imports little of agentd, so that it starts quickly.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.errors import PermanentError, TemporaryError
from agentd.limits import Limits
from handlers.ip_blacklist.comparison import CompareJob
from handlers.ip_blacklist.compile import CompileJob
from handlers.ip_blacklist.count import CountJob
from handlers.ip_blacklist.formats import is_document
from handlers.ip_blacklist.outputs import OutputsJob

if TYPE_CHECKING:
    from agentd.handler import Context, TaskContext

Job = CompileJob | OutputsJob | CompareJob | CountJob

_KINDS: Final[dict[str, type[Job]]] = {
    "compare": CompareJob, "compile": CompileJob, "count": CountJob, "outputs": OutputsJob,
}  # fmt: skip
_WORK: Final = {
    "compare": "comparing the list with what is loaded", "compile": "reading the list",
    "count": "counting what entries and lists cover", "outputs": "writing the outputs",
}  # fmt: skip
_KILLED: Final = "was killed, as the kernel does where memory is short (MemoryMax of agentd's unit)"
_ANSWER: Final = 65536  # bytes
_MOST: Final = 2**20  # bytes
_QUOTED: Final = 300
_INLINE: Final = 256 * 1024  # bytes; below it the program takes longer to start than to do the work
_DOCUMENT: Final = 8  # how many times as much JSON counts
_RANGE: Final = 256  # bytes as which a range counts: one of IPv6 addresses becomes as many CIDRs
_DASHES: Final = (b"-", "\N{EN DASH}".encode())


def run(context: Context | TaskContext, job: Job, sources: Iterable[Path], limits: Limits) -> None:
    """Do the job, here or in the program, by what it is and by the size of its sources.

    Args:
        context: of the attempt, or of the task.
        job: what to do.
        sources: the files that it reads.
        limits: what the program may use.

    Raises:
        PermanentError: the program needs more memory or processor time than it may use.
        TemporaryError: the program failed.
    """
    weight = _list_weight if isinstance(job, CompileJob) else _weight
    if sum(map(weight, sources)) < _INLINE:
        job.run()
    else:
        ask(context, job, limits)


def _weight(file: Path) -> int:
    """Bytes as which it counts."""
    return file.stat().st_size * (_DOCUMENT if is_document(file) else 1)


def _list_weight(file: Path) -> int:
    """The same, of a list as it is served; of a large one, only that it is large."""
    size = _weight(file)
    if size >= _INLINE:
        return size
    text = file.read_bytes()
    return size + _RANGE * sum(map(text.count, _DASHES))


def ask(context: Context | TaskContext, job: Job, limits: Limits) -> bytes:
    """Do the job in the program; return what it printed. Raises as `run` does."""
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(job, cls))
    argv = [sys.executable, "-I", "-m", "handlers.ip_blacklist.child", kind]
    argv += [str(limits.memory), str(limits.cpu)]
    given = json.dumps(asdict(job)).encode()
    done = context.run(argv, stdin=given, keep=_ANSWER, most=_MOST, check=False, read_only=True)
    if exceeded := limits.exceeded(done.returncode):
        raise PermanentError(f"{_WORK[kind]} takes {exceeded}; if it should, raise `limits`")
    if done.returncode:
        said = ascii(done.output[-_QUOTED:].decode(errors="replace"))
        how = _KILLED if done.returncode == -signal.SIGKILL else f"ended with {done.returncode}"
        raise TemporaryError(f"{_WORK[kind]} failed: the program {how}: {said}")
    return done.output


def main(arguments: Sequence[str]) -> None:
    """Do the job on standard input."""
    kind, memory, cpu = arguments
    gc.disable()  # millions of objects and no cycles: collecting would more than double the time
    with Limits(memory=int(memory), cpu=int(cpu), alone=kind != "compare").applied():
        _KINDS[kind](**json.load(sys.stdin)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
