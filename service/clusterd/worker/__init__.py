"""What an application may ask about the worker it runs in: `from clusterd import worker`.

    worker.id           number of this worker, never used again in the life of the cluster; None outside a worker
    worker.slot         its slot, 0-based: one of `worker.slots`; a successor has the same (a spare: once it serves)
    worker.slots        how many slots the service has
    worker.generation   generation of the code it runs; None outside a worker
    worker.app          name of the cluster; None outside
    worker.task         name of the task whose run this process is; None in a worker that serves
    worker.draining     whether it is about to leave: nothing new comes, what is in flight is finished
    @worker.on_drain    has a function, plain or async, called once when that begins
    worker.cache        what all its workers share: see caching/cache.py, or docs/messages-and-state.md

Read-only. While the application is imported only `app` is known: that happens once, before there are workers.

    await worker.broadcast(topic, data)         to every other worker
    await worker.send(id, topic, data)          to one
    await worker.request(id, topic, data)       and its answer
    await worker.publish(key, value)            to all, and to those yet to be born: a retained value
    worker.value(key)                           the last one
    @worker.on(topic)                           has a function, plain or async, called with each worker.Message
    async for ... in worker.messages(topic), worker.watch(key)
    worker.sync.broadcast, send, request, publish: the same for WSGI and threads

Errors are worker.MessageError and its kinds, worker.CacheError and its. See messaging/, or the same page.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

TYPE_CHECKING = False
"""Type checkers know it by its name. Not from `typing`, whose import takes most of what Python takes to start."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from .caching import Cache as Cache
    from .caching import CacheError as CacheError
    from .caching import CacheValueError as CacheValueError
    from .leaving import F
    from .leaving import on_drain as on_drain
    from .messaging import HandlerFailed as HandlerFailed
    from .messaging import Message as Message
    from .messaging import MessageError as MessageError
    from .messaging import Messages as Messages
    from .messaging import MessageValueError as MessageValueError
    from .messaging import NoHandler as NoHandler
    from .messaging import RequestTimeout as RequestTimeout
    from .messaging import Watch as Watch
    from .messaging import WorkerGone as WorkerGone
    from .messaging import broadcast as broadcast
    from .messaging import messages as messages
    from .messaging import on as on
    from .messaging import publish as publish
    from .messaging import request as request
    from .messaging import send as send
    from .messaging import sync as sync
    from .messaging import value as value
    from .messaging import watch as watch

    cache: Cache

app: str | None
draining: bool
generation: int | None
id: int | None
slot: int
slots: int
task: str | None


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None


_OWN = frozenset(
    ["CacheError", "CacheValueError", "app", "cache", "draining", "generation", "id", "on_drain", "slot", "slots"]
)
_MESSAGING = frozenset(
    [
        *("HandlerFailed", "Message", "MessageError", "MessageValueError", "Messages", "NoHandler", "RequestTimeout"),
        *("Watch", "WorkerGone", "broadcast", "messages", "on", "publish", "request", "send", "sync", "value", "watch"),
    ]
)


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

    @property
    def task(self) -> str | None:
        return os.environ.get("CLUSTERD_TASK") or None

    @property
    def draining(self) -> bool:
        from . import leaving

        return leaving.begun

    @property
    def on_drain(self) -> Callable[[F], F]:
        from .leaving import on_drain

        return on_drain

    # Imported when asked for: an application without a cache, or messages, pays nothing for them.

    def __getattr__(self, name: str) -> object:
        if name not in _MESSAGING:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        from . import messaging

        return getattr(messaging, name)

    def __dir__(self) -> list[str]:
        return sorted(_OWN | _MESSAGING)

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
