"""Retained values, and the bytes that keep them for the next master.

The memory has two halves, each an append-only log. A publish appends one record; when the half is full, what is
current is written into the other half and that half's header last. A master killed at any byte so leaves either
what was before the publish or what is after it: a record that was cut has a wrong checksum, a half that was cut
has no header. Each checksum is seeded with its half's epoch, so that records left by an earlier use of the same
half are never read as a continuation of the present one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<8sQI")  # magic, epoch, checksum of both
_RECORD = struct.Struct("<IQI")  # bytes of the body, version, checksum of version and body
_MAGIC = b"clusterd"

MAX_KEYS = 1024
MAX_KEY = 128
"""Bytes of a key in UTF-8."""
MAX_TOTAL = (16 << 20) - (64 << 10)
"""Bytes of all keys and values together: a value is one message to each worker."""
HALF = MAX_TOTAL + (64 << 10)
"""Bytes of one half that holds as much."""
_SLACK = 64 << 10

Write = tuple[int, bytes]
"""(offset, bytes), to be written in the order given."""


class Full(Exception):
    """A publish that would break a bound. The text names the bound and what was found."""


@dataclass(frozen=True)
class Value:
    version: int
    raw: str
    """JSON, as the publisher sent it."""
    size: int
    """Bytes of key and value in a record."""


def _body(key: str, raw: str) -> bytes:
    return json.dumps([key, raw], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _record(epoch: int, version: int, body: bytes) -> bytes:
    return _RECORD.pack(len(body), version, _checksum(epoch, version, body)) + body


def _checksum(epoch: int, version: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<QQ", epoch, version)))


def _header(epoch: int) -> bytes:
    return _HEADER.pack(_MAGIC, epoch, zlib.crc32(struct.pack("<Q", epoch)))


class Table:
    """The last value of each key. `publish` gives the writes that keep it; nothing here performs them."""

    def __init__(self, half: int = HALF, *, keys: int = MAX_KEYS, total: int = MAX_TOTAL) -> None:
        """`half`: bytes of one half; it must hold everything that the bounds allow."""
        self._half, self._keys, self._total = half, keys, total
        self.values: dict[str, Value] = {}
        self.version = 0
        self.size = 0
        """Bytes of all keys and values, as records have them."""
        self._epoch = 0
        self._end = half  # as if full: the first publish begins a half

    def publish(self, key: str, raw: str) -> list[Write]:
        """Take the value. Raises Full, having changed nothing."""
        body = _body(key, raw)
        self._check(key, body)
        self.version += 1
        self._set(key, Value(self.version, raw, len(body)))
        record = _record(self._epoch, self.version, body)
        # Long before the half is full where little is retained: what was overwritten is memory that nobody reads.
        if self._end + len(record) > min(self._half, _SLACK + 4 * self.size):
            return self._compacted()
        at = self._epoch % 2 * self._half + self._end
        self._end += len(record)
        return [(at, record)]

    def _set(self, key: str, value: Value) -> None:
        old = self.values.get(key)
        self.size += value.size - (old.size if old else 0)
        self.values[key] = value

    def _check(self, key: str, body: bytes) -> None:
        if not 0 < len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY:
            raise Full(f"key '{key[:40]}': 1 to {MAX_KEY} bytes, found {len(key.encode('utf-8', 'surrogatepass'))}")
        if key not in self.values and len(self.values) >= self._keys:
            raise Full(f"key '{key}': {self._keys} keys are retained already, which is the most")
        old = self.values.get(key)
        total = self.size - (old.size if old else 0) + len(body)
        most = min(self._total, self._half - _HEADER.size - _RECORD.size * self._keys)
        if total > most:
            raise Full(f"key '{key}': all values would be {total} bytes, at most {most}")

    def _compacted(self) -> list[Write]:
        self._epoch += 1
        start = self._epoch % 2 * self._half
        current = sorted(self.values.items(), key=lambda item: item[1].version)
        log = b"".join(_record(self._epoch, v.version, _body(key, v.raw)) for key, v in current)
        self._end = _HEADER.size + len(log)
        return [(start, bytes(_HEADER.size)), (start + _HEADER.size, log), (start, _header(self._epoch))]

    def restore(self, memory: bytes) -> None:
        """Take what another master's writes left in `memory` (both halves)."""
        halves = [memory[: self._half], memory[self._half : 2 * self._half]]
        epochs = [epoch for n, half in enumerate(halves) if (epoch := _epoch(half)) % 2 == n and epoch]
        if not epochs:
            return
        self._epoch = max(epochs)
        self._end = _HEADER.size
        for version, key, raw, end in _records(halves[self._epoch % 2], self._epoch):
            self._set(key, Value(version, raw, len(_body(key, raw))))
            self.version = version
            self._end = end


def _epoch(half: bytes) -> int:
    """0 where the half has no whole header."""
    if len(half) < _HEADER.size:
        return 0
    magic, epoch, checksum = _HEADER.unpack_from(half)
    return int(epoch) if magic == _MAGIC and checksum == zlib.crc32(struct.pack("<Q", epoch)) else 0


def _records(half: bytes, epoch: int) -> Iterator[tuple[int, str, str, int]]:
    at = _HEADER.size
    while at + _RECORD.size <= len(half):
        length, version, checksum = _RECORD.unpack_from(half, at)
        body = half[at + _RECORD.size : at + _RECORD.size + length]
        if len(body) < length or not length or checksum != _checksum(epoch, version, body):
            return
        key, raw = json.loads(body.decode("utf-8", "surrogatepass"))
        at += _RECORD.size + length
        yield version, key, raw, at
