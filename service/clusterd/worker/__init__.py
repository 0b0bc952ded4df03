"""What an application may ask about the worker it runs in: `from clusterd import worker`.

    worker.id           number of this worker, never used again in the life of the cluster; None outside a worker
    worker.slot         its slot, 0-based: one of `worker.slots`; a successor has the same (a spare: once it serves)
    worker.slots        how many slots the service has
    worker.generation   generation of the code it runs; None outside a worker
    worker.app          name of the cluster; None outside
    worker.cache        what all its workers share: see caching/cache.py, or docs/messages-and-state.md

Read-only. While the application is imported only `app` is known: that happens once, before there are workers.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .caching import Cache, CacheError, CacheValueError

    cache: Cache

app: str | None
generation: int | None
id: int | None
slot: int
slots: int


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None


class _Worker(ModuleType):
    """A module class with properties, because a module's plain attributes can be assigned to."""

    @property
    def id(self) -> int | None:
        return _number("CLUSTERD_WORKER")

    @property
    def slot(self) -> int:
        return _number("CLUSTERD_SLOT") or 0

    @property
    def slots(self) -> int:
        return _number("CLUSTERD_SLOTS") or 1

    @property
    def generation(self) -> int | None:
        return _number("CLUSTERD_GENERATION")

    @property
    def app(self) -> str | None:
        return os.environ.get("CLUSTERD_APP") or None

    # Imported when asked for: an application without a cache pays nothing for it.

    @property
    def cache(self) -> Cache:
        from .caching import cache

        return cache

    @property
    def CacheError(self) -> type[CacheError]:  # a class
        from .caching import CacheError

        return CacheError

    @property
    def CacheValueError(self) -> type[CacheValueError]:
        from .caching import CacheValueError

        return CacheValueError


sys.modules[__name__].__class__ = _Worker
