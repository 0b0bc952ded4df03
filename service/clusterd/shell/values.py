"""The memfd `values`: the retained values' log, written in place, readable by the next master."""

from __future__ import annotations

import os
from collections.abc import Iterable


class Values:
    """`size` bytes; memory is taken as they are written. The descriptor stays the caller's to close."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls, size: int) -> Values:
        fd = os.memfd_create("values", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return cls(fd)

    def read(self) -> bytes:
        size, parts, at = os.fstat(self.fd).st_size, [], 0
        while at < size and (part := os.pread(self.fd, size - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def write(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """(offset, bytes), in the order given: what a kill leaves is the first of them. Raises OSError."""
        for at, data in writes:
            view = memoryview(data)
            while view:
                written = os.pwrite(self.fd, view, at)
                view, at = view[written:], at + written
