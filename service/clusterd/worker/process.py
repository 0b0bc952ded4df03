"""What a worker or zygote does to its own process: cgroup, OOM score, name, signals, children."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

FOREIGN = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE")
"""What systemd told the service's main process; an application that believes it would speak in the master's name."""


def forget_service_environment() -> None:
    for name in FOREIGN:
        os.environ.pop(name, None)


def join_cgroup(path: str | None) -> None:
    """Move this process into the cgroup at `path`. Raises OSError."""
    if path:
        _write(os.path.join(path, "cgroup.procs"), "0")


def set_oom_score(score: object) -> None:
    """Best effort: raising it is always allowed, lowering is not, and some containers refuse both."""
    if isinstance(score, int):
        try:
            _write("/proc/self/oom_score_adj", str(max(-1000, min(1000, score))))
        except OSError:
            pass


def detach() -> None:
    """A process group of its own: Ctrl-C in `clusterd run` is for the master, which then drains its workers."""
    try:
        os.setpgid(0, 0)
    except OSError:
        pass  # a session leader


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """Another's socket, to ask it something. Raises OSError.

    An application's socket.setdefaulttimeout() makes of each socket that Python takes over a non-blocking one, for all
    who have it. For this moment there is none, rather than to change the socket and change it back.
    """
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        sock = socket.socket(fileno=fd)
    finally:
        socket.setdefaulttimeout(default)
    try:
        yield sock
    finally:
        sock.detach()


def close_stdin() -> None:
    """A background process that reads from a terminal is stopped by it; let it find an end of file instead."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)


def set_title(title: str, short: str) -> None:
    """Show `title` as the command line and `short` (15 bytes) as the name. Best effort, for people with ps and top.

    The command line is overwritten where the kernel keeps it, so it is cut to the length of the original.
    """
    try:
        _write("/proc/self/comm", short[:15])
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
        size = end - start
        if not start or not 0 < size < 1 << 16:
            return
        import ctypes

        ctypes.memmove(start, title.encode(errors="replace")[: size - 1].ljust(size, b"\0"), size)
    except (OSError, ValueError, IndexError, ImportError):
        pass


def sockets_from(fds: list[int]) -> list[socket.socket]:
    """Listening sockets as the engines want them; family, type and protocol are read from the kernel."""
    return [socket.socket(fileno=fd) for fd in fds]


def quiet_signals() -> None:
    """SIGINT and SIGHUP of a terminal are for the master. Handlers, not SIG_IGN, which children would inherit."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _nothing)


def default_signals() -> None:
    """What a program expects that knows nothing of us, or of Python, which ignores SIGPIPE and SIGXFSZ."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def keep_signals() -> None:
    """What handles signals in this process from now on is for it alone. Called once, when the application is imported.

    multiprocessing ends its children by SIGTERM: in a fork that had our handler, and with it what wakes the event loop
    (a descriptor that both have), it would drain the worker and leave the child. There SIGTERM is again what it is now.
    """
    masks, sigterm = threading.local(), signal.getsignal(signal.SIGTERM)
    ours = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def hold() -> None:
        """Until the child has its own: what is sent to it at once would be taken for ours, and be lost to it."""
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def begin() -> None:
        _give_up_signals(sigterm)
        go_on()

    os.register_at_fork(before=hold, after_in_parent=go_on, after_in_child=begin)


def _give_up_signals(sigterm: Any) -> None:
    with contextlib.suppress(ValueError):  # of a fork made in a subinterpreter: signals are not for that to handle
        signal.set_wakeup_fd(-1)
        if sigterm is not None:  # a handler that is not Python's
            signal.signal(signal.SIGTERM, sigterm)
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
            if signal.getsignal(number) is _nothing:
                signal.signal(number, default)


def children() -> dict[int, str]:
    """The living child processes of this one, with their names; {} where the kernel does not tell."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            pids = _read(f"/proc/self/task/{thread}/children").split()
        except OSError:
            continue
        for pid in map(int, pids):
            with contextlib.suppress(OSError):
                name, _, rest = _read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
                if rest.split()[0] not in "ZX":
                    found[pid] = name
    return found


def end(pids: Iterable[int], patience: float = 1.0) -> None:
    """End child processes by SIGTERM; who is there after `patience` seconds is killed."""
    living = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            living[pid] = os.pidfd_open(pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pidfd in living.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)
        deadline = time.monotonic() + patience
        for pid, pidfd in list(living.items()):
            poller = select.poll()  # select() takes no descriptor above 1023
            poller.register(pidfd, select.POLLIN)
            if poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                with contextlib.suppress(OSError):
                    os.waitpid(pid, 0)
                os.close(living.pop(pid))


def environment(name: str, generation: int, order: dict[str, Any]) -> dict[str, str]:
    """The CLUSTERD_* variables of a worker."""
    found = {
        "CLUSTERD_APP": name,
        "CLUSTERD_GENERATION": str(generation),
        "CLUSTERD_WORKER": str(order["worker"]),
        "CLUSTERD_SLOTS": str(order.get("slots", 1)),
    }
    if (slot := order.get("slot")) is not None:  # a spare has none yet
        found["CLUSTERD_SLOT"] = str(slot)
    if (task := order.get("task")) is not None:
        found["CLUSTERD_TASK"] = str(task["name"])
    return found


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def _write(path: str, text: str) -> None:
    # Unbuffered: a kernel file's error belongs to the write, not to the close.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
