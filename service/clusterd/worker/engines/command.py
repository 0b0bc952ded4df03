"""Any program that takes its sockets from systemd: LISTEN_FDS, NOTIFY_SOCKET, SIGTERM to drain."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import process, stdio
from ..channel import Channel
from ..refusal import Refusal

if TYPE_CHECKING:
    from ..boot import Boot

_FIRST = 3
"""SD_LISTEN_FDS_START."""


def find(command: Sequence[str]) -> str:
    """The program's path, seen from the working directory. Raises Refusal."""
    if not command or not command[0]:
        raise Refusal("command is empty: expected a program and its arguments")
    name = command[0]
    if "/" in name:
        return _check(name, name)
    path = os.environ.get("PATH", os.defpath)
    refused: Refusal | None = None
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate):
            try:
                return _check(candidate, name)
            except Refusal as e:
                refused = refused or e
    if refused is None and " " in name:
        words = ", ".join(f'"{word}"' for word in name.split())
        raise Refusal(f"command '{name}' not found: each word is one of the list: command = [{words}]")
    raise refused or Refusal(f"command '{name}' not found in PATH ({path}){_similar(name, path)}")


def _check(path: str, name: str) -> str:
    if os.path.isdir(path):
        raise Refusal(f"command '{name}' is a directory")
    if not os.path.exists(path):
        raise Refusal(f"command '{name}' does not exist (working directory '{os.getcwd()}')")
    if not os.access(path, os.X_OK):
        if os.stat(path).st_mode & 0o111 and os.statvfs(path).f_flag & os.ST_NOEXEC:
            raise Refusal(f"command '{path}' is on a file system that is mounted noexec: nothing on it can be executed")
        raise Refusal(f"command '{path}' is not executable: chmod +x")
    return path


def _similar(name: str, path: str) -> str:
    names: set[str] = set()
    for directory in path.split(":"):
        try:
            names.update(os.listdir(directory))
        except OSError:
            continue
    close = difflib.get_close_matches(name, sorted(names), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def run(boot: Boot, order: dict[str, Any], fds: list[int], exec_fd: int) -> int:
    """In the fork: become the program. Returns only when that failed, with the reason written to `exec_fd`.

    `fds` are [channel, output, *listeners, bus], or without the first for a master that knows no "go" for commands, or
    the last for one that has no bus.
    """
    bus = fds.pop() if order.get("bus") else -1
    process.detach()
    process.set_oom_score(order.get("oom-score-adj"))
    names = [str(name) for name in order.get("listeners", ())]
    channel_fds, (output, *listeners) = fds[: -1 - len(names)], fds[-1 - len(names) :]
    stdio.take(output)
    if channel_fds and not Channel(socket.socket(fileno=channel_fds[0])).wait_for_go():
        return 0
    try:
        process.join_cgroup(order.get("cgroup"))
    except OSError as e:
        print(f"cannot join cgroup '{order.get('cgroup')}': {e.strerror}, ignoring", file=sys.stderr)
    stdio.introduce()
    environment = {**os.environ, **process.environment(boot.name, boot.generation, order)}
    environment.update(LISTEN_FDS=str(len(listeners)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join(names))
    if order.get("notify"):
        environment["NOTIFY_SOCKET"] = str(order["notify"])
    if boot.watchdog is not None:
        environment.update(WATCHDOG_USEC=str(round(boot.watchdog * 1e6)), WATCHDOG_PID=str(os.getpid()))
    try:
        program = find(boot.command)
        if bus >= 0:
            environment["CLUSTERD_CHANNEL_FD"] = str(_FIRST + len(listeners))
        exec_fd = _place(listeners, bus, exec_fd)
        stdio.flush()
        process.default_signals()
        os.execve(program, list(boot.command), environment)
    except Refusal as e:
        reason = e.reason
    except OSError as e:
        reason = f"command '{boot.command[0]}' cannot be run: {e.strerror}{_unrun(program, e.errno)}"
    os.write(exec_fd, reason.encode()[:4000])
    return 127


def _unrun(program: str, number: int | None) -> str:
    """What is wrong with a program that the kernel would not run."""
    if number == errno.ENOEXEC:
        return " (a script needs a first line like '#!/bin/sh')"
    if number != errno.ENOENT:
        return ""
    with contextlib.suppress(OSError):
        with open(program, "rb") as f:
            if f.readline(256).endswith(b"\r\n"):
                return " (its lines end as Windows ends them, and that is part of the interpreter's name: dos2unix)"
    return " (the interpreter its first line names does not exist)"


def _place(listeners: Sequence[int], bus: int, exec_fd: int) -> int:
    """Put the listeners at 3 and up and the bus after them, inherited; all else keeps CLOEXEC. The new `exec_fd`."""
    inherited = [*listeners, bus] if bus >= 0 else listeners
    above = _FIRST + len(inherited)
    # Out of the way first: a listener's number may be one that another is to get.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in inherited]
    exec_fd = fcntl.fcntl(exec_fd, fcntl.F_DUPFD_CLOEXEC, above)
    for number, fd in enumerate(moved, _FIRST):
        os.dup2(fd, number, inheritable=True)
    return exec_fd
