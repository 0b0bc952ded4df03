"""The journal's native protocol: a datagram a record, of any size (https://systemd.io/JOURNAL_NATIVE_PROTOCOL); and how
journald comes to know whose a record is.

Not libsystemd's own: it waits for a journald that does not read, and where an application is imported it need not be.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
import termios
import time

SOCKET = "/run/systemd/journal/socket"

STDOUT = re.compile(r"/run/systemd/journal(\.[^/]+)?/stdout")
"""Where journald listens for what services print, that of a namespace too (LogNamespace=)."""


def encode(fields: dict[str, str]) -> bytes:
    """Fields as the journal reads them: a value with a newline in it goes with its length before it."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="surrogateescape")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def send(sock: socket.socket, data: bytes, path: str | None = None, flags: int = 0) -> None:
    """Send one record to `path`, or to whom `sock` (AF_UNIX, SOCK_DGRAM) is connected.

    Raises OSError; BlockingIOError where it is not to wait, or no longer, and journald's queue, or ours in it, is full.
    """
    try:
        sock.sendmsg([data], (), flags, path)
    except OSError as e:
        if e.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        _send_large(sock, data, path, flags)


def _send_large(sock: socket.socket, data: bytes, path: str | None, flags: int) -> None:
    # Sealed, because journald reads it in its own time and takes no other.
    fd = os.memfd_create("clusterd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        sock.sendmsg([b""], rights, flags, path)
    finally:
        os.close(fd)


def is_stream(sock: socket.socket) -> bool:
    """Whether journald makes records of the lines that are written there. Raises OSError."""
    peer = sock.getpeername()
    return isinstance(peer, str) and STDOUT.fullmatch(peer) is not None


def introduce(sock: socket.socket) -> bool:
    """Let journald meet this process by an empty line, of which it makes no record. False if `sock` is no stream of it.

    At the first line of another process in a stream journald asks /proc for its unit, and knows it from then on, for
    what it logs too, as long as the stream is open and nobody else has written into it. Met only by its last words, and
    gone when they are read, a process would be of no unit. It looks again after a second: until then a program that is
    yet to be executed is shown by the name and command line of who will execute it (`_COMM=`, `_EXE=`, `_CMDLINE=`).
    Raises OSError where nobody is there to be met.
    """
    if not is_stream(sock):
        return False
    sock.send(b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    return True


def await_reader(fd: int, patience: float) -> None:
    """Wait until all that was sent by a Unix socket has been read, `patience` seconds at most.

    For who has just begun, or is about to end: journald asks /proc for the unit of whoever wrote a record when it comes
    to read it, and knows none of a process that is gone by then. `journalctl -u` does not show what that said.
    """
    end = time.monotonic() + patience
    while unread(fd) and time.monotonic() < end:
        time.sleep(0.001)  # no event tells that another has read


def unread(fd: int) -> int:
    """What the other end of a Unix socket has not read, in bytes of the kernel's memory; 0 of what is no socket."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return found
