"""What the benchmark's applications share.

BENCH_DIE=SECONDS   every worker exits at a random moment within that time of its start (WSGI: of its first request)
BENCH_HEAP=BYTES    so many bytes of live Python objects are made at import, as a big application has them
BENCH_BLOB=BYTES    so many bytes in one object, as a table or a model read from a file
BENCH_UNSEEN=1      clusterd's scoreboard is left out: no request is counted, no sign of life given
"""

from __future__ import annotations

import os
from typing import Any

LOOPS = 30_000
DIE = float(os.environ.get("BENCH_DIE", "0"))
HEAP = int(os.environ.get("BENCH_HEAP", "0"))
PAGE = os.sysconf("SC_PAGE_SIZE")


def burn() -> int:
    x = 0
    for i in range(LOOPS):
        x += i * i
    return x


def moment() -> float:
    # from the kernel, not from `random`: workers forked from one process must not share a seed
    return int.from_bytes(os.urandom(4), "big") / 2**32 * DIE


def resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * PAGE


def ballast(size: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    enough = resident() + size
    while size and resident() < enough:
        for _ in range(1000):
            n = len(records)
            records.append({"id": n, "name": f"record {n}", "tags": [str(n), str(n + 1)], "price": n / 7})
    return records


RECORDS = ballast(HEAP)
BLOB = os.urandom(int(os.environ.get("BENCH_BLOB", "0")))

if os.environ.get("BENCH_UNSEEN"):  # here, where the zygote imports it before it makes the engine
    from clusterd.worker.engines import pulse

    pulse.Threads.counted = lambda self, app: app  # type: ignore[method-assign]
    pulse.Pulse.beat = lambda self: 3600.0  # type: ignore[method-assign]


def touch() -> int:
    """Read all of the data: of each record every object, which writes its reference count; of the blob every page."""
    total = sum(BLOB[::PAGE])
    for record in RECORDS:
        total += len(record["name"]) + sum(map(len, record["tags"])) + int(record["price"])
    return total


def body_of(path: str) -> bytes:
    if path == "/cpu":
        return str(burn()).encode()
    if path == "/pid":
        return str(os.getpid()).encode()
    if path == "/touch":
        touch()
        return str(os.getpid()).encode()
    return b"hello"
