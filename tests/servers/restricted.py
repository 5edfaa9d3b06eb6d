"""Runs a program as agentd's unit runs it without the drop-in: no sockets of the family AF_NETLINK.

    python -m tests.servers.restricted PROGRAM ARGUMENT...

Owns the seccomp filter, which is what systemd's `RestrictAddressFamilies=` installs.

Source: seccomp(2), linux/filter.h, linux/audit.h
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_NUMBER: Final = 0  # struct seccomp_data: nr, arch, instruction_pointer, args[6]
_FIRST_ARGUMENT: Final = 16
SOCKET: Final = {"x86_64": 41, "aarch64": 198}
"""The number of the system call socket(2), by architecture."""


def _filter() -> bytes:
    def step(code: int, true: int, false: int, k: int) -> bytes:
        return struct.pack("HBBI", code, true, false, k)

    return b"".join(
        (
            step(_LOAD, 0, 0, _NUMBER),
            step(_IF_EQUAL, 0, 3, SOCKET[platform.machine()]),
            step(_LOAD, 0, 0, _FIRST_ARGUMENT),
            step(_IF_EQUAL, 0, 1, socket.AF_NETLINK),
            step(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
            step(_RETURN, 0, 0, _ALLOW),
        )
    )


def main() -> None:
    """Install the filter and become the program."""
    code = _filter()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the filter cannot be installed")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 (no shell is what is wanted)


if __name__ == "__main__":
    main()
