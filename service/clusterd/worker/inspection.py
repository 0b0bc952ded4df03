"""What an imported application has begun that a fork would break: the reasons to spawn workers instead.

Only what was not there before the import counts. Native threads are not looked for: libraries that have them
(OpenBLAS behind numpy) bring fork handlers, and those that do not show up as sockets or epoll descriptors mostly.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading

from .process import borrowed, children

_SQLITE_MAGIC = b"SQLite format 3\0"


def open_fds() -> dict[int, str]:
    """Descriptor -> what it is, as /proc names it."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one listdir itself used
    return found


def reasons(before: dict[int, str]) -> list[str]:
    """Why this process should not be forked, in words; `before` is `open_fds()` before the import."""
    found = [f"thread '{t.name}'" for t in threading.enumerate() if t is not threading.main_thread() and t.is_alive()]
    found += [f"child process '{name}'" for name in processes().values()]
    for fd, link in sorted(open_fds().items()):
        if before.get(fd) != link and (reason := _reason(fd, link)) and reason not in found:
            found.append(reason)
    return found


def processes() -> dict[int, str]:
    """The child processes that the import has begun and that live, with their names."""
    known = sys.modules.get("multiprocessing.process")
    names = {p.pid: p.name for p in known.active_children()} if known is not None else {}
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    shared = getattr(tracker, "_pid", None)  # of shared memory: it serves forks too, and ends with the last
    return {pid: names.get(pid, name) for pid, name in children().items() if pid != shared}


def _reason(fd: int, link: str) -> str | None:
    if link.startswith("socket:"):
        return _connected(fd)
    if link == "anon_inode:[eventpoll]":
        return "an event loop (epoll)"
    if link == "anon_inode:[io_uring]":
        return "an event loop (io_uring)"
    if link.startswith("/"):
        return _database(fd, link)
    return None


def _connected(fd: int) -> str | None:
    try:
        with borrowed(fd) as sock:
            if sock.type == socket.SOCK_DGRAM:
                return None  # syslog, statsd: every message stands alone, so processes may share it
            peer = sock.getpeername()
    except OSError:
        return None  # not connected: a listener, or a datagram socket in waiting
    if isinstance(peer, tuple):
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        return f"connected to {host}:{peer[1]} at import"
    if isinstance(peer, bytes):
        peer = "@" + peer[1:].decode(errors="replace")
    return f"connected to {peer} at import" if peer else "a socket pair"


def _database(fd: int, path: str) -> str | None:
    """SQLite's locks belong to a process, and its documentation forbids a connection to cross a fork."""
    if path.endswith(("-wal", "-shm", "-journal")):
        return None  # beside the database itself, which is open as well
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        if os.pread(fd, len(_SQLITE_MAGIC), 0) == _SQLITE_MAGIC:
            return f"SQLite database '{path}' open"
        if os.fstat(fd).st_size == 0 and path.endswith((".db", ".sqlite", ".sqlite3")):
            return f"SQLite database '{path}' open"
    except OSError:
        pass
    return None
