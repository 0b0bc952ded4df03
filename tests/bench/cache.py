"""worker.cache beside Redis on loopback: operations a second of one and of four processes, as ratios to Redis over TCP.

    build/venv/bin/python tests/bench/cache.py

Takes about a minute; the median of rounds in turn, then of all calls the longest wait of the median round. Libraries
that keep values on one machine are measured too where they are installed: lmdb, diskcache. Absolute
figures are this machine's and not worth keeping.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "service"), str(ROOT / "tests/worker")]

SECONDS = 0.3
ROUNDS = 7
VALUE = "x" * 100


class Lmdb:
    """As fast as it goes: nothing synchronised, no times, no bound but the map's."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.pid = 0

    def close(self) -> None:
        """Before a fork: a child of a process that has it open cannot open it."""
        self._env.close()
        self.pid = 0

    @property
    def env(self) -> Any:
        if self.pid != os.getpid():
            import lmdb

            self._env = lmdb.open(self.directory, map_size=64 << 20, sync=False, metasync=False, writemap=True)
            self.pid = os.getpid()
        return self._env

    def get(self, key: str) -> Any:
        with self.env.begin() as t:
            return json.loads(t.get(key.encode()))

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        with self.env.begin(write=True) as t:
            t.put(key.encode(), json.dumps(value).encode())

    def incr(self, key: str) -> int:
        with self.env.begin(write=True) as t:
            number = int(t.get(key.encode(), b"0")) + 1
            t.put(key.encode(), b"%d" % number)
        return number


class Diskcache:
    """As it comes: only text and numbers go in here, which it does not pickle. Its JSONDisk cannot count."""

    def __init__(self, directory: str) -> None:
        import diskcache

        self.cache = diskcache.Cache(directory)
        self.get = self.cache.get
        self.incr = self.cache.incr

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.cache.set(key, value, expire=ttl)


def round_of(work: Callable[[int], object], processes: int) -> tuple[float, float]:
    """(calls of `work` a second in all, seconds of the longest)"""
    receive, send = os.pipe()
    for _ in range(processes):
        if os.fork() == 0:
            count, longest, last = 0, 0.0, time.monotonic()
            end = last + SECONDS
            while last < end:
                work(count)
                count += 1
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            os.write(send, b"%d %f\n" % (count, longest))
            os._exit(0)
    for _ in range(processes):
        os.wait()
    os.close(send)
    with os.fdopen(receive) as told:
        counts, longests = zip(*(line.split() for line in told), strict=True)
    return sum(map(int, counts)) / SECONDS, max(map(float, longests))


def main() -> None:
    from caches import cache

    from tests.redises import server

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, server() as redis:
        stores: dict[str, Any] = {"embedded": cache(f"{directory}/embedded")}
        stores |= {f"Redis, {kind}": cache(url) for kind, url in redis.urls.items()}
        for name, kind in {"lmdb": Lmdb, "diskcache": Diskcache}.items():
            if importlib.util.find_spec(name):
                stores[name] = kind(f"{directory}/{name}")
        for processes in (1, 4):
            rounds: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for name, store in list(stores.items()) * ROUNDS:
                store.set("a", VALUE)
                if isinstance(store, Lmdb):
                    store.close()
                works: dict[str, Callable[[int], object]] = {
                    "get": lambda n, store=store: store.get("a"),  # type: ignore[misc]
                    "set": lambda n, store=store: store.set(f"k{n % 1000}", VALUE, ttl=60),  # type: ignore[misc]
                    "incr": lambda n, store=store: store.incr("n"),  # type: ignore[misc]
                }
                for what, work in works.items():
                    rounds.setdefault((name, what), []).append(round_of(work, processes))
            for at, title in enumerate(("calls a second", "longest wait")):
                median = {leg: statistics.median(each[at] for each in found) for leg, found in rounds.items()}
                for what in ("get", "set", "incr"):
                    ratios = {name: median[name, what] / median["Redis, tcp", what] for name in stores}
                    shown = ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items())
                    print(f"{processes} processes, {what}, {title}: {shown}")


if __name__ == "__main__":
    main()
