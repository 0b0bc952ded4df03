"""Processes by descriptor: a pid alone may name a stranger by the time it is used."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import select
import signal
import struct

# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info) with the first published size of the structure, 64 bytes.
_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_INFO_SIZE = 64
_INFO_EXIT_CODE = 60

STATUS_GRACE = 3.0
"""Seconds to wait for whoever reaps a dead process to say its status, before its death is told without one."""


def open(pid: int) -> int:
    """A descriptor (CLOEXEC) for process `pid`. Raises ProcessLookupError. Exact only for one's own unreaped child."""
    return os.pidfd_open(pid)


def send(fd: int, number: int) -> bool:
    """Send signal `number`; False when the process is gone. Raises PermissionError."""
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    return True


def pid_of(fd: int) -> int | None:
    """The process's number as seen here; None when it is gone and reaped, or in another pid namespace."""
    with builtins.open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                pid = int(line.split()[1])
                return pid if pid > 0 else None
    raise ValueError(f"descriptor {fd} is not a pidfd")


def alive(fd: int) -> bool:
    """Whether the process still runs. An unreaped one ("zombie") does not."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not poll.poll(0)


def status(fd: int) -> int | None:
    """The wait status of a process that has ended, as os.waitpid() gives it; None while it runs or when nobody tells.

    Our own child is reaped by this. Another's status is known to the kernel (6.15 and later) once its parent has
    reaped it, so None may turn into a status a moment later.
    """
    try:
        result = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return _exit_info(fd)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return result.si_status | (0x80 if result.si_code == os.CLD_DUMPED else 0)


def describe(status: int | None) -> str:
    """What an operator reads: "exited with status 1", "killed by SIGKILL", "gone (status unknown)"."""
    if status is None:
        return "gone (status unknown)"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"killed by {name}" + (" (core dumped)" if os.WCOREDUMP(status) else "")
    return f"exited with status {os.WEXITSTATUS(status)}"


def _exit_info(fd: int) -> int | None:
    info = bytearray(_INFO_SIZE)
    struct.pack_into("Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(fd, _GET_INFO, info)
    except OSError as e:
        # ENOTTY, EINVAL: older than 6.13. ESRCH: reaped, and the kernel (older than 6.15) kept no status.
        if e.errno in (errno.ENOTTY, errno.EINVAL, errno.ESRCH, errno.EREMOTE):
            return None
        raise
    if not struct.unpack_from("Q", info, 0)[0] & _INFO_EXIT:
        return None
    return int(struct.unpack_from("i", info, _INFO_EXIT_CODE)[0])
