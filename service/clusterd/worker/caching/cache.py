"""`worker.cache`: what every worker of an application sees, and a restart or reload of workers leaves alone."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast, overload

from . import values
from .store import Busy, Store

T = TypeVar("T")

LEASE = "30s"


class Cache:
    """Values by key, the same in every worker. Safe in threads and over forks; opened at the first use.

    Keys are text of at most 512 bytes. Values are JSON (a tuple comes back as a list, a key of a dict as text) or
    bytes, 1 MiB at most. A `ttl` is in seconds, or text such as "10s" or "5min"; None is for ever, yet any value may
    go earlier when room is needed. Mistakes raise CacheValueError; CacheError says that it cannot answer now.

    The methods with an `a` before their names are the same for coroutines; they never hold up the event loop.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._make: Callable[[], Store] = store
        self._made: Store | None = None

    def get(self, key: str, default: Any = None) -> Any:
        """The value; `default` where there is none, or its time is over."""
        packed = self._store.get(values.check_key(key))
        return default if packed is None else values.unpack(packed)

    def set(self, key: str, value: Any, ttl: float | str | None = None) -> None:
        """From when it returns, every worker gets `value`, for `ttl`."""
        self._store.set(values.check_key(key), values.pack(value), values.seconds(ttl))

    def add(self, key: str, value: Any, ttl: float | str | None = None) -> bool:
        """Set it if it is not there, atomically, and say whether it was set: one of many callers hears True."""
        return self._store.add(values.check_key(key), values.pack(value), values.seconds(ttl))

    def delete(self, key: str) -> bool:
        """Whether it was there."""
        return self._store.delete(values.check_key(key))

    def incr(self, key: str, by: int = 1, ttl: float | str | None = None) -> int:
        """Add `by` and return the sum, atomically. A key that is not there begins at 0 and lives for `ttl`; one that is
        there keeps the time it has. So `incr(f"seen:{address}", ttl="1min")` counts in windows of a minute.
        """
        return self._store.incr(values.check_key(key), values.amount(by), values.seconds(ttl))

    def get_or_compute(
        self, key: str, ttl: float | str | None, function: Callable[[], T], *, lease: float | str = LEASE
    ) -> T:
        """The value; where there is none, one caller in all workers calls `function` while the others wait for it.

        An exception goes to whoever computed, and the next of those who wait tries. The death of its process frees the
        others (within 5 s with Redis). Who has waited for `lease` no longer does: one of them computes besides.
        """
        values.check_key(key)
        store, time_to_live, patience = self._store, values.seconds(ttl), values.seconds(lease) or 0.0
        packed = store.get(key)
        for turn in itertools.count():
            if packed is not None:
                break
            claim = store.claim(key, turn)
            try:
                for pause in _pauses(patience):
                    taken = claim.take()
                    # Also after taking it: whoever had it may have left a value in the meantime.
                    packed = store.get(key)
                    if packed is None and taken:
                        packed = values.pack(function())
                        store.set(key, packed, time_to_live)
                    if packed is not None:
                        break
                    time.sleep(pause)
            finally:
                claim.release()
        assert packed is not None
        return cast(T, values.unpack(packed))

    async def aget(self, key: str, default: Any = None) -> Any:
        """As get."""
        packed = await self._call(self._store.get, values.check_key(key))
        return default if packed is None else values.unpack(packed)

    async def aset(self, key: str, value: Any, ttl: float | str | None = None) -> None:
        """As set."""
        await self._call(self._store.set, values.check_key(key), values.pack(value), values.seconds(ttl))

    async def aadd(self, key: str, value: Any, ttl: float | str | None = None) -> bool:
        return await self._call(self._store.add, values.check_key(key), values.pack(value), values.seconds(ttl))

    async def adelete(self, key: str) -> bool:
        """As delete."""
        return await self._call(self._store.delete, values.check_key(key))

    async def aincr(self, key: str, by: int = 1, ttl: float | str | None = None) -> int:
        """As incr."""
        return await self._call(self._store.incr, values.check_key(key), values.amount(by), values.seconds(ttl))

    @overload
    async def aget_or_compute(
        self, key: str, ttl: float | str | None, function: Callable[[], Awaitable[T]], *, lease: float | str = ...
    ) -> T: ...

    @overload
    async def aget_or_compute(
        self, key: str, ttl: float | str | None, function: Callable[[], T], *, lease: float | str = ...
    ) -> T: ...

    async def aget_or_compute(
        self,
        key: str,
        ttl: float | str | None,
        function: Callable[[], Awaitable[T]] | Callable[[], T],
        *,
        lease: float | str = LEASE,
    ) -> T:
        """As get_or_compute. `function` is a coroutine function, or a plain one, which then runs in a thread."""
        values.check_key(key)
        store, time_to_live, patience = self._store, values.seconds(ttl), values.seconds(lease) or 0.0
        packed = await self._call(store.get, key)
        for turn in itertools.count():
            if packed is not None:
                break
            claim = store.claim(key, turn)
            try:
                for pause in _pauses(patience):
                    taken = await asyncio.to_thread(claim.take) if store.remote else claim.take()
                    packed = await self._call(store.get, key)
                    if packed is None and taken:
                        packed = values.pack(await _result(function))
                        await self._call(store.set, key, packed, time_to_live)
                    if packed is not None:
                        break
                    await asyncio.sleep(pause)
            finally:
                # In a thread where it is remote, and not waited for: a cancelled task must not have to await.
                if store.remote:
                    asyncio.get_running_loop().run_in_executor(None, claim.release)
                else:
                    claim.release()
        assert packed is not None
        return cast(T, values.unpack(packed))

    @property
    def _store(self) -> Store:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def _call(self, method: Callable[..., T], *arguments: Any) -> T:
        """The embedded store answers in microseconds, a thread would cost ten times that: only if need be."""
        if not self._store.remote:
            try:
                return method(*arguments, patient=False)
            except Busy:
                pass
        return await asyncio.to_thread(method, *arguments)


def _pauses(patience: float) -> Any:
    """Seconds to sleep before each further look, until `patience` is over. First soon: most computations are short."""
    end, pause = time.monotonic() + patience, 0.001
    while True:
        yield pause
        if time.monotonic() > end:
            return
        pause = min(pause * 1.5, 0.05)


async def _result(function: Callable[[], Any]) -> Any:
    made = function() if inspect.iscoroutinefunction(function) else await asyncio.to_thread(function)
    return await made if inspect.isawaitable(made) else made
