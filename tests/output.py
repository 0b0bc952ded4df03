"""What a process of the tests prints, kept in a file that the tests read while it still prints."""

from __future__ import annotations

import fcntl
import os
import tempfile
from typing import IO


def kept() -> IO[bytes]:
    """A file to hand to a process as its output, gone with its last descriptor.

    It is appended to: reader and writers share one offset.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the caller
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


def read(file: IO[bytes]) -> str:
    """All that was printed until now."""
    data, fd = b"", file.fileno()
    while piece := os.pread(fd, 1 << 20, len(data)):  # by its place: every write moves the offset that they share
        data += piece
    return data.decode(errors="replace")
