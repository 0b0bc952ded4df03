"""The stores that worker.cache stands on, for tests."""

from __future__ import annotations

import os
from collections.abc import Callable

from clusterd.worker.caching import Cache
from clusterd.worker.caching.embedded import Embedded
from clusterd.worker.caching.redis import Redis


def cache(place: str, prefix: str = "test:") -> Cache:
    """Of a directory or a URL."""
    return Cache(lambda: Embedded(place) if place.startswith("/") else Redis(place, prefix))


def together(count: int, work: Callable[[int], None]) -> list[int]:
    """`work(number)` in as many forked processes, begun at one moment; their wait statuses."""
    begin, go = os.pipe()
    pids = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            status = 1
            try:
                os.close(go)
                os.read(begin, 1)
                work(number)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(begin)
    os.close(go)
    return [os.waitpid(pid, 0)[1] for pid in pids]
