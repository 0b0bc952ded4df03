"""Who listens where: the kernel says nothing when a stranger joins a reuseport group."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Collection
from dataclasses import dataclass

from clusterd.shell import sockdiag

_LISTEN = "0A"
ANY4, ANY6 = "0.0.0.0", "::"


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket of this network namespace."""

    host: str
    port: int
    inode: int
    uid: int

    @property
    def text(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listeners() -> list[Listener]:
    """Every listening TCP socket; empty where the kernel tells in neither way."""
    try:
        return [Listener(*found[:4]) for found in sockdiag.listening()]
    except OSError:
        return _from_tables()


def _from_tables() -> list[Listener]:
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if len(fields) > 9 and fields[3] == _LISTEN:
                    host, _, port = fields[1].partition(":")
                    found.append(Listener(_host(host), int(port, 16), int(fields[9]), int(fields[7])))
    return found


def foreign_listeners(host: str, port: int, own_inodes: Collection[int]) -> list[Listener]:
    """Listeners that are not ours and take connections meant for our listener on `host` and `port`.

    Those on the same address share them by reuseport. Those on a narrower one (127.0.0.1 inside 0.0.0.0; 0.0.0.0 inside
    a dual-stack ::) take all that are meant for it; a wider one takes none of ours.
    """
    return [
        other
        for other in listeners()
        if other.port == port and other.inode not in own_inodes and _within(other.host, host.partition("%")[0])
    ]


def who(inode: int) -> str | None:
    """The first process found that has the socket open, "nginx (pid 812)"; else the unit that made it, "nginx.service".

    A service's own user sees no process of another's, but the kernel tells everybody the cgroup of a listener. None
    when neither can be told.
    """
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                        return describe_process(int(pid))
    return sockdiag.unit(inode)


def describe_process(pid: int) -> str:
    """ "nginx (pid 812)", or "pid 812" when its name cannot be read."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return f"{file.read().strip()} (pid {pid})"
    return f"pid {pid}"


def _within(host: str, wider: str) -> bool:
    return host == wider or wider == ANY6 or (wider == ANY4 and ":" not in host)


def _host(text: str) -> str:
    """The kernel prints addresses as 32-bit words in the machine's byte order, in hexadecimal."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))
