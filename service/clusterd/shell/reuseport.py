"""The kernel's side of balancing: the program on a reuseport group."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

from clusterd.shell.sockets import borrowed

_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_LOCK_FILTER = 44

Code = tuple[int, int, int, int]
"""struct sock_filter: code, jt, jf, k. balance.program.Instruction is one."""


def grouped(fd: int) -> bool:
    """Whether the listener belongs to a reuseport group, so that a program can steer (a UNIX socket never does)."""
    with borrowed(fd) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def attach(fd: int, instructions: Sequence[Code]) -> None:
    """Put the program on the group of `fd`, at once in place of the one before. Any member will do, once per group.

    The program outlives whoever attached it. Raises OSError: EINVAL when the socket is in no group or the kernel does
    not take the program.
    """
    # No ctypes: it makes a type for each length, of which nothing is freed before the garbage collector comes by.
    code = array.array("B", b"".join(struct.pack("=HBBI", *i) for i in instructions))
    program = struct.pack("@HP", len(instructions), code.buffer_info()[0])
    with borrowed(fd) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def lock(fd: int) -> None:
    """Let nobody who holds this listener put a program on it, or on its group by it, ever again (SO_LOCK_FILTER).

    What is on the group stays and may be replaced by another member that is not locked; the kernel still lets every
    member take it off.
    """
    with borrowed(fd) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
