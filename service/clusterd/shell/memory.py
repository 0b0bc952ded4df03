"""The memfd `state`: what a master must not forget, readable at every instant, and its heartbeat.

Page 0 holds the heartbeat and two descriptors; each describes one copy of the data further on. A write puts the data
where the current copy is not, then rewrites the older descriptor; a writer killed anywhere leaves the other copy whole.
"""

from __future__ import annotations

import os
import struct
import zlib

MAGIC = b"clusterd"
LIMIT = 64 << 20
"""Bytes of data at most: a core's state is some kilobytes."""

_PAGE = 4096
_BEAT = 64
_TABLE = (128, 192)
_ENTRY = struct.Struct("=QQQII")
"""sequence, offset, length, checksum of the data, checksum of the four before."""


class State:
    """One writer (the master), any number of readers of the same memfd (the keeper, the next master)."""

    def __init__(self, fd: int) -> None:
        """Take over the memfd `fd`, which stays the caller's to close. Raises ValueError when it is another file."""
        self.fd = fd
        if os.fstat(fd).st_size < _PAGE:
            os.ftruncate(fd, _PAGE)
        magic = os.pread(fd, len(MAGIC), 0)
        if magic == bytes(len(MAGIC)):
            os.pwrite(fd, MAGIC, 0)
        elif magic != MAGIC:
            raise ValueError(f"descriptor {fd} is not the memfd 'state': it begins with {magic!r}, expected {MAGIC!r}")

    @classmethod
    def create(cls) -> State:
        return cls(os.memfd_create("state", os.MFD_CLOEXEC))

    def write(self, data: bytes) -> None:
        """Replace the data. Raises ValueError above LIMIT, OSError when there is no memory; the old data then stays."""
        if len(data) > LIMIT:
            raise ValueError(f"state of {len(data)} bytes, at most {LIMIT}")
        current = self._current()
        sequence, index, at = 1, 0, _PAGE
        if current is not None:
            sequence, index = current[0] + 1, 1 - current[1]
            offset, length = current[2], current[3]
            at = _PAGE if _PAGE + len(data) <= offset else _round_up(offset + length)
        if os.fstat(self.fd).st_size < at + len(data):
            os.ftruncate(self.fd, _round_up(at + len(data)))
        _write_all(self.fd, data, at)
        entry = _ENTRY.pack(sequence, at, len(data), zlib.crc32(data), 0)[:-4]
        _write_all(self.fd, entry + struct.pack("=I", zlib.crc32(entry)), _TABLE[index])

    def read(self) -> bytes | None:
        """The newest whole data; None when nothing was ever written."""
        current = self._current()
        return current[4] if current is not None else None

    def beat(self, now: float) -> None:
        """The master lives, at `now` monotonic seconds."""
        os.pwrite(self.fd, struct.pack("=d", now), _BEAT)

    def last_beat(self) -> float | None:
        """When the master was last alive, monotonic seconds; None before its first beat."""
        value = float(struct.unpack("=d", os.pread(self.fd, 8, _BEAT))[0])
        return value or None

    def _current(self) -> tuple[int, int, int, int, bytes] | None:
        """(sequence, index, offset, length, data) of the newest copy that is whole."""
        found = []
        for index, position in enumerate(_TABLE):
            entry = os.pread(self.fd, _ENTRY.size, position)
            sequence, offset, length, checksum, own = _ENTRY.unpack(entry)
            if sequence and zlib.crc32(entry[:-4]) == own and length <= LIMIT:
                found.append((sequence, index, offset, length, checksum))
        for sequence, index, offset, length, checksum in sorted(found, reverse=True):
            data = _read_all(self.fd, length, offset)
            if zlib.crc32(data) == checksum:
                return sequence, index, offset, length, data
        return None


def _round_up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _read_all(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)
