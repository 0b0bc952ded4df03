"""Reading a file that may be anything. Imported by the generator: see names.py."""

from __future__ import annotations

import os
import stat


class NoFile(ValueError):
    """Too large, or a directory or device or the like; the text says which."""


def read_bounded(path: str, limit: int) -> bytes:
    """The file's bytes. Raises OSError, NoFile."""
    # not blocking: a FIFO of that name must not hang the boot, or the master
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NoFile("something that is no file")
        chunks, size = [], 0
        while size <= limit and (chunk := os.read(fd, limit + 1 - size)):
            chunks.append(chunk)
            size += len(chunk)
    finally:
        os.close(fd)
    if size > limit:
        raise NoFile(f"more than {limit} bytes")
    return b"".join(chunks)
