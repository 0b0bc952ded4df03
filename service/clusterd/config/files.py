"""Reading a file that may be anything. Imported by the generator: see names.py."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

_MAX_LINKS = 40
"""As the kernel has it."""


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


def exposed(path: str) -> str:
    """Where others than root may say what is in the file; "" where nobody may. Raises OSError, also when it is missing.

    Who may write one of the directories on the way, or of those that links lead to, may put another file in its place.
    """
    # as bytes, in the encoding of systemd, which opens it: the locale may have another
    for part, status in _way(path.encode()):
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != 0 or (mode & 0o022 and not stat.S_ISLNK(status.st_mode)):
            shown = part.decode(errors="replace")
            return f"'{shown}' (owner {status.st_uid}, mode {mode:04o}), which others than root may change"
    return ""


def _way(path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every directory and link that the kernel passes on its way to `path`, and the file at its end."""
    at, ahead, links = b"/", path.split(b"/"), 0
    yield at, os.lstat(at)
    while ahead:
        name = ahead.pop(0)
        if name in (b"", b".", b".."):
            at = os.path.dirname(at) if name == b".." else at
            continue
        part = os.path.join(at, name)
        status = os.lstat(part)
        yield part, status
        if not stat.S_ISLNK(status.st_mode):
            at = part
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
        target = os.readlink(part)
        ahead = target.split(b"/") + ahead
        at = b"/" if target.startswith(b"/") else at
