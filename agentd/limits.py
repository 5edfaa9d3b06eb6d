"""Limits on a program: memory, processor time, the size of a file. A program that hit one says so by its end.

agentd's own parsers, compilers, signers and unpackers put themselves under limits as they start, since what
they read comes from outside. An operator's program gets none unless an option asks for it: a service
that it starts would inherit them. Then it is started through this module, which limits itself and becomes it:

    python -I -m agentd.limits MEMORY CPU FILE PROGRAM [ARGUMENT]...     bytes, seconds, bytes; - for no limit

agentd's own programs set the soft limits only, so that a program that they have to ask, such as `ipset` or
one that finds credentials, is not under them. Imports nothing of agentd: the start of such programs counts.

Source: getrlimit(2)
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

OUT_OF_MEMORY: Final = 76
"""Exit status of a limited program that needs more memory than it may have."""

_CANNOT_START: Final = 127
_NONE: Final = "-"
_before: Final[dict[int, tuple[int, int]]] = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use; None for no limit.

    Attributes:
        memory: bytes of address space.
        cpu: seconds of processor time.
        file: bytes of the longest file that it may write.
        alone: whether it starts no other program; one that is not root cannot.
    """

    memory: int | None = None
    cpu: int | None = None
    file: int | None = None
    alone: bool = False

    def apply(self, *, for_good: bool = False) -> None:
        """Put this process under them, and let it leave no core file; `for_good` if it must not lift them."""
        most = {
            resource.RLIMIT_AS: self.memory,
            resource.RLIMIT_CPU: self.cpu,
            resource.RLIMIT_FSIZE: self.file,
            resource.RLIMIT_NPROC: 0 if self.alone else None,
            resource.RLIMIT_CORE: 0,
        }
        for which, value in most.items():
            if value is not None:
                soft, hard = _before.setdefault(which, resource.getrlimit(which))
                lowest = _lowest(value, soft, hard)
                # At its hard limit of time a program is killed without a word; SIGXCPU comes a second before.
                last = _lowest(lowest + (which == resource.RLIMIT_CPU), hard) if for_good else hard
                resource.setrlimit(which, (lowest, last))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Do the work of this process under them, without threads.

        The process ends here if there is too little memory. What it starts with `subprocess` is not under
        them.
        """
        self.apply()
        if not self.alone:
            _spare_children()
        try:
            yield
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            os._exit(OUT_OF_MEMORY)

    def exceeded(self, returncode: int) -> str:
        """What a program that applied them needed: "more than 512 MB of memory"; "" if it ended otherwise.

        To start it again with the same input would end in the same way.
        """
        if returncode == OUT_OF_MEMORY and self.memory is not None:
            return f"more than {self.memory >> 20} MB of memory"
        if returncode == -signal.SIGXCPU and self.cpu is not None:
            return f"more than {self.cpu} s of processor time"
        if returncode == -signal.SIGXFSZ and self.file is not None:
            return f"a file of more than {self.file} bytes"
        return ""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs a program under all but `alone`, although it knows nothing of them."""
        limits = (_NONE if one is None else str(one) for one in (self.memory, self.cpu, self.file))
        return [sys.executable, "-I", "-m", "agentd.limits", *limits, *argv]


def _lowest(*limits: int) -> int:
    return min(one for one in limits if one != resource.RLIM_INFINITY)


def _spare_children() -> None:
    """Have whatever this process starts with `subprocess` begin with the limits from before."""
    import subprocess  # noqa: PLC0415 (for programs that start none it is not worth the time)

    subprocess.Popen = partial(subprocess.Popen, preexec_fn=_restore)  # type: ignore[misc, assignment] # its process


def _restore() -> None:
    for which, limit in _before.items():
        resource.setrlimit(which, limit)


def main(arguments: Sequence[str]) -> int:
    """Become a program under limits. Returns an exit status if it cannot be started."""
    memory, cpu, file, *argv = arguments
    Limits(_number(memory), _number(cpu), _number(file)).apply(for_good=True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 (the operator's own program)
    except OSError as error:
        sys.stderr.write(f"{argv[0]} cannot be started: {error.strerror}\n")
    return _CANNOT_START


def _number(text: str) -> int | None:
    return None if text == _NONE else int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
