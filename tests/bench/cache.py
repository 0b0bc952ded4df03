"""worker.cache beside Redis on loopback: operations a second of one and of four processes, as ratios to Redis over TCP.

    build/venv/bin/python tests/bench/cache.py

Takes about half a minute; the median of rounds in turn. Absolute figures are this machine's and not worth keeping.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "service"), str(ROOT / "tests/worker")]

SECONDS = 0.3
ROUNDS = 5


def rate(work: Callable[[int], object], processes: int) -> float:
    """Calls of `work` a second in all."""
    receive, send = os.pipe()
    for _ in range(processes):
        if os.fork() == 0:
            count, end = 0, time.monotonic() + SECONDS
            while time.monotonic() < end:
                work(count)
                count += 1
            os.write(send, b"%d\n" % count)
            os._exit(0)
    for _ in range(processes):
        os.wait()
    os.close(send)
    with os.fdopen(receive) as counts:
        return sum(map(int, counts)) / SECONDS


def main() -> None:
    from caches import cache, server

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, server() as redis:
        stores = {"embedded": cache(directory), **{kind: cache(url) for kind, url in redis.urls.items()}}
        for processes in (1, 4):
            rates: dict[tuple[str, str], list[float]] = {}
            for name, store in list(stores.items()) * ROUNDS:
                store.set("a", "x" * 100)
                works: dict[str, Callable[[int], object]] = {
                    "get": lambda n, store=store: store.get("a"),  # type: ignore[misc]
                    "set": lambda n, store=store: store.set(f"k{n % 1000}", "x" * 100, ttl=60),  # type: ignore[misc]
                    "incr": lambda n, store=store: store.incr("n"),  # type: ignore[misc]
                }
                for what, work in works.items():
                    rates.setdefault((name, what), []).append(rate(work, processes))
            median = {leg: statistics.median(found) for leg, found in rates.items()}
            for what in ("get", "set", "incr"):
                shown = ", ".join(f"{name} {median[name, what] / median['tcp', what]:.1f}" for name in stores)
                print(f"{processes} processes, {what}: {shown} of Redis over TCP")


if __name__ == "__main__":
    main()
