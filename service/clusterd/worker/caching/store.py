"""What a cache stands on: the embedded one or Redis. Both pass the same tests."""

from __future__ import annotations

from typing import Protocol


class Busy(Exception):
    """An impatient call found another process writing."""


class Claim(Protocol):
    """The right to compute one value. A process that dies loses it."""

    def take(self) -> bool:
        """Try, without waiting. Raises CacheError."""

    def release(self) -> None:
        """Give it back, or do nothing where it was not taken. Where the store is remote, a `take` that is under way in
        another thread then takes nothing. Raises nothing."""


class Store(Protocol):
    """Keys and values as values.py makes them, times in seconds. Every method raises CacheError."""

    remote: bool
    """Every call waits for somebody else: none of an event loop's thread."""

    def get(self, key: str, *, patient: bool = True) -> bytes | None:
        """`patient` False: raise Busy rather than wait for another process; so do the others."""

    def set(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> None: ...

    def add(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> bool:
        """Atomic. Whether it was not there; otherwise it stays as it is."""

    def delete(self, key: str, *, patient: bool = True) -> bool:
        """Whether it was there."""

    def incr(self, key: str, by: int, ttl: float | None, *, patient: bool = True) -> int:
        """Atomic. A key that is not there begins at 0 and lives for `ttl`; one that is there keeps its time."""

    def claim(self, key: str, turn: int) -> Claim:
        """`turn`: 0, and one more each time that a claim has been waited for too long."""
