"""Reading a file that may be anything. Imported by the generator: see names.py."""

from __future__ import annotations

import os
import stat


class NoFile(ValueError):
    """Too large, or a directory or device or the like; the text says which."""


class Shared(NoFile):
    """Others than its owner may change it: whoever does says what root's systemd runs, and as whom."""

    def __init__(self, path: str, mode: int) -> None:
        super().__init__(f"mode {stat.S_IMODE(mode):04o} of '{path}', which others than its owner may write")
        self.hint = f"chmod go-w {path}"


def read_own(path: str, limit: int, forbidden: int) -> bytes:
    """As `read_bounded`, of a file that no permission bit of `forbidden`, nor of its directory, opens to others.

    Raises Shared besides.
    """
    directory = os.path.dirname(path) or "."
    mode = os.stat(directory).st_mode
    if mode & forbidden and not mode & stat.S_ISVTX:
        raise Shared(directory, mode)
    return read_bounded(path, limit, forbidden)


def read_bounded(path: str, limit: int, forbidden: int = 0) -> bytes:
    """The file's bytes. Raises OSError, NoFile; Shared where its mode has a bit of `forbidden`."""
    # not blocking: a FIFO of that name must not hang the boot, or the master
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise NoFile("something that is no file")
        if mode & forbidden:
            raise Shared(path, mode)
        chunks, size = [], 0
        while size <= limit and (chunk := os.read(fd, limit + 1 - size)):
            chunks.append(chunk)
            size += len(chunk)
    finally:
        os.close(fd)
    if size > limit:
        raise NoFile(f"more than {limit} bytes")
    return b"".join(chunks)
