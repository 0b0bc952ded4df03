"""The kernel asked over netlink for listening TCP sockets alone, as ss(8) does: sock_diag(7).

Not /proc/net/tcp where it can be avoided: that walks through every connection there is, those in TIME_WAIT too, and
under load goes round in circles. A master took 2 to 10 s to read it on a machine with 30,000 of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _REQUEST_DUMP = 20, 0x301
_ERROR, _DONE = 2, 3
_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_REQUEST = struct.Struct("=BBBBI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states, and a socket id of no interest."""
_ANSWER = struct.Struct("=BBBB2s2s16s16s12xIIIII")
"""struct inet_diag_msg: family, state, timer, retransmissions, ports, addresses, expiry, queues, uid, inode."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""
_CGROUP_ID = 21  # INET_DIAG_CGROUP_ID
_MOST = 10_000
"""Directories of the cgroup tree that are looked at for a name."""
_TIMEOUT = 2.0
"""Seconds; the answer is there at once, or the kernel has none."""


class Found(NamedTuple):
    host: str
    port: int
    inode: int
    uid: int
    cgroup: int
    """The id of the cgroup it was made in; 0 where the kernel does not tell (before 5.7)."""


def unit(inode: int) -> str | None:
    """The unit in whose cgroup the listener with that inode was made: "nginx.service". None when it cannot be told."""
    try:
        cgroup = next((found.cgroup for found in listening() if found.inode == inode), 0)
    except OSError:
        return None
    units = [part for part in _path(cgroup).split("/") if part.endswith((".service", ".scope"))] if cgroup else []
    if not units:
        return None
    return "a socket unit of systemd's ('systemctl list-sockets')" if units[-1] == "init.scope" else units[-1]


def listening() -> list[Found]:
    """Every listening TCP socket of this network namespace. Raises OSError where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_TIMEOUT)
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _ask(sock, family)]


def _ask(sock: socket.socket, family: int) -> Iterator[Found]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN)
    sock.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, family, 0) + request)
    while True:
        data = sock.recv(1 << 16)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                raise OSError(number, os.strerror(number))
            yield _found(data[_HEADER.size : length])
            data = data[(length + 3) & ~3 :]


def _found(data: bytes) -> Found:
    family, _, _, _, port, _, host, _, _, _, _, uid, inode = _ANSWER.unpack_from(data)
    text = socket.inet_ntop(family, host[:4] if family == socket.AF_INET else host)
    return Found(text, int.from_bytes(port, "big"), inode, uid, _cgroup(data[_ANSWER.size :]))


def _cgroup(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _CGROUP_ID and length == 12:
            return int.from_bytes(attributes[4:12], sys.byteorder)
        attributes = attributes[max((length + 3) & ~3, _ATTRIBUTE.size) :]
    return 0


def _path(cgroup: int) -> str:
    """The path of a cgroup: its id is the inode number of its directory. "" when it is not to be seen from here."""
    for number, (path, _, _) in enumerate(os.walk("/sys/fs/cgroup")):
        if number > _MOST:
            break
        with contextlib.suppress(OSError):
            if os.stat(path, follow_symlinks=False).st_ino == cgroup:
                return path
    return ""
