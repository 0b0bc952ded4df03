"""The client side of Varlink, blocking: for the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from clusterd.shell.control import peer_of
from clusterd.shell.interface import NAME
from clusterd.worker.wire import Wire, WireError


class VarlinkError(Exception):
    """The service answered with an error. `name` without "io.clusterd." when it is one of ours."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(name, parameters)
        self.name = name.removeprefix(f"{NAME}.")
        self.parameters = parameters

    def __str__(self) -> str:
        details = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"{self.name}({details})"


class Stranger(OSError):
    """Who listens is not who the path belongs to: root would be led to another's master."""


def call(
    path: str | os.PathLike[str],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    more: bool = False,
    *,
    connect_timeout: float = 5.0,
    timeout: float | None = None,
) -> Iterator[dict[str, Any]]:
    """The parameters of each reply; with `more` there may be several, else one.

    `method` is one of io.clusterd's, or a full name. `timeout` is the longest wait for one reply, None: a reload ends
    by the master's own deadlines. Raises VarlinkError; OSError when nobody listens, somebody else does (Stranger) or no
    reply comes in time (TimeoutError); wire.WireError when the connection ends before the last reply (the master was
    replaced, say).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        _connect(sock, path, connect_timeout)
        wire = Wire(sock)
        request: dict[str, Any] = {
            "method": method if "." in method else f"{NAME}.{method}",
            "parameters": dict(parameters or {}),
        }
        with _in_time():
            wire.send({**request, "more": True} if more else request)
        sock.settimeout(timeout)
        while True:
            with _in_time():
                replies = wire.receive()
            for reply, _ in replies:
                if "error" in reply:
                    raise VarlinkError(str(reply["error"]), reply.get("parameters") or {})
                yield reply.get("parameters") or {}
                if not reply.get("continues"):
                    return


def _connect(sock: socket.socket, path: str | os.PathLike[str], timeout: float) -> None:
    """By the kernel's own time-out: with Python's, a queue that is full for a moment would be an error at once."""
    seconds, rest = divmod(timeout, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))
    try:
        sock.connect(os.fspath(path))
    except BlockingIOError as e:
        raise TimeoutError(e.errno, f"nobody has taken the connection within {timeout:g} s", os.fspath(path)) from e
    _know(sock, os.fspath(path))
    sock.settimeout(timeout)


def _know(sock: socket.socket, path: str) -> None:
    """A service's user owns its runtime directory, and could put a link to another's socket there. Raises Stranger."""
    owner, uid = _owner(path), peer_of(sock).uid
    if uid != owner:
        raise Stranger(errno.EPERM, f"who listens there is user {uid}, and it belongs to user {owner}", path)


def _owner(path: str) -> int:
    """Whose socket it is: links are followed where they are root's or our own."""
    while True:
        found = os.lstat(path)
        if not stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            return found.st_uid
        path = os.path.join(os.path.dirname(path), os.readlink(path))


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """A time-out is told as what it is: to the wire it is a peer that has gone, or that cannot be written to."""
    try:
        yield
    except WireError as e:
        if isinstance(e.__cause__, TimeoutError):
            raise TimeoutError("no answer in time") from e
        raise
