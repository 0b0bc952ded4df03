"""journald's end: a record as it comes over its socket, read as the protocol's documentation says, and a stream."""

from __future__ import annotations

import array
import contextlib
import io
import mmap
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.worker import native


def decode(data: bytes) -> dict[str, str]:
    """Its fields."""
    found, stream = {}, io.BytesIO(data)
    while line := stream.readline():
        name, separator, value = line[:-1].partition(b"=")
        if not separator:
            (size,) = struct.unpack("<Q", stream.read(8))
            value = stream.read(size)
            assert stream.read(1) == b"\n"
        found[name.decode()] = value.decode()
    return found


def receive(sock: socket.socket) -> dict[str, str]:
    """The next one's fields, be it in the datagram or in the memory that comes with it."""
    data, ancillary, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    if not ancillary:
        return decode(data)
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    try:
        with mmap.mmap(fds[0], 0, prot=mmap.PROT_READ) as memory:
            return decode(memory[:])
    finally:
        os.close(fds[0])


@contextlib.contextmanager
def journal_stream(directory: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A stream as journald makes records of, and journald's end of it."""
    path = str(directory / "stdout")
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as ours,
    ):
        patch.setattr(native, "STDOUT", re.compile(re.escape(path)))
        server.bind(path)
        server.listen()
        ours.connect(path)
        with server.accept()[0] as theirs:
            yield ours, theirs
