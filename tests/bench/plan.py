"""The legs in their order, and what becomes of their figures: which table, which column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import legs
import standing
from legs import Found, Sizes, Start
from ours import Clusterd, ClusterdGranian, ClusterdWsgi
from peers import Granian, GranianWsgi, GunicornGthread, GunicornUvicorn, Hypercorn, Node, Pm2, Uvicorn, Uwsgi
from servers import Server

SERVERS: tuple[type[Server], ...] = (
    Clusterd, Uvicorn, GunicornUvicorn, Granian, Hypercorn,
    ClusterdGranian, ClusterdWsgi, GunicornGthread, GranianWsgi, Uwsgi,
    Node, Pm2,
)  # fmt: skip

LEGS: dict[str, Callable[[Start, int, Sizes], Found]] = {
    "wrk": legs.keep_alive,
    "ab": legs.connection_each,
    "reload": legs.reloads,
    "kill": legs.kills,
    "cpu": legs.cpu,
    "die": legs.dying,
    "memory": standing.memory,
    "rest": standing.rest,
    "swift": standing.swift,
    "bare": standing.bare,
}
AGAIN = frozenset({"wrk", "ab", "reload"})
"""Legs of every round. The others are of the first alone: they are long, or vary little."""


@dataclass(frozen=True)
class Column:
    """One figure of each server: how the tables show it."""

    title: str
    digits: int = 0
    ratio: bool = False
    """whether to show it beside that of the server all of its kind are compared to"""


@dataclass(frozen=True)
class Table:
    title: str
    text: str
    columns: dict[str, Column]


def tables(sizes: Sizes, cores: int) -> list[Table]:
    times = "once" if sizes.reloads == 1 else f"{sizes.reloads} times"
    return [
        Table(
            "Throughput",
            "`/` answers `hello`. Kept connections: wrk with 64. A connection a request: ab with 50 at once. "
            "Computing: a request of some milliseconds of Python or JavaScript, ab with 200 at once, on 1 and on "
            f"{cores} workers. Processor time is that of all the server's processes, the kernel's part of it "
            "included.",
            {
                "wrk rate": Column("kept, requests/s", ratio=True),
                "wrk p99": Column("99th percentile, ms", 1, ratio=True),
                "wrk cpu": Column("processor, us/request", 1, ratio=True),
                "ab rate": Column("connection each, requests/s", ratio=True),
                "ab cpu": Column("processor, us/request", 1, ratio=True),
                "cpu all": Column("computing, requests/s", ratio=True),
                "cpu gain": Column(f"gain of {cores} workers over 1", 2),
            },
        ),
        Table(
            "Reload",
            f"All workers replaced {times} under wrk, as each server offers it (a dash: it does not). `until done` "
            "ends when no old worker accepts and, for clusterd, every new one serves and has lived through its "
            "soak (2 s, `[reload] soak`); for the others, when the last old process has gone and the new ones "
            "exist, ready or not.",
            {
                "reload failures": Column("failed requests"),
                "reload p99": Column("99th percentile meanwhile, ms", 1),
                "reload seconds": Column("until done, s", 1),
                "swift": Column(f"{standing.WORKERS} idle workers, until done, s", 2),
                "swift no soak": Column("... with soak = 0, s", 2),
            },
        ),
        Table(
            "Death of workers",
            f"{sizes.kills} SIGKILLs under load, the workers in turn, each when all are there again. `held` are "
            "the connections the victims had accepted: under wrk each has a request in it, and is lost whoever "
            "started the worker. To hold few of them is no merit either: it means that another worker did most of "
            f"the work. `dying`: every worker exits within {sizes.die} s of its start, at random, under ab with "
            "200 at once.",
            {
                "wrk kill failures": Column("wrk: failed"),
                "wrk kill held": Column("held"),
                "ab kill failures": Column("ab: failed"),
                "ab kill held": Column("held"),
                "dying failures": Column("dying: failed"),
                "dying availability": Column("answered, %", 3),
            },
        ),
        Table(
            "Memory and rest",
            "An application with 100 MB of live Python (or JavaScript) objects. Memory is PSS: a page that n "
            "processes share counts 1/n in each. `further worker`: half the difference between four and two "
            "workers; `touched`: after every object has been read, which writes its reference count and so "
            "unshares its page. After a reload clusterd keeps the previous generation, which can come back, in "
            "memory: that is its price. At rest, with the small application and nobody asking: what is not a "
            "worker (for clusterd keeper, master, zygote, twin).",
            {
                "memory worker": Column("further worker, MB"),
                "memory touched": Column("... touched, MB"),
                "memory total": Column("4 workers and all, MB"),
                "memory reloaded": Column("... after a reload, MB"),
                "rest processes": Column("at rest: processes"),
                "rest memory": Column("their memory, MB", 1),
                "rest wakeups": Column("their wake-ups/s", 1),
            },
        ),
        Table(
            "What clusterd adds to its engine",
            f"One worker of clusterd and the engine's own server with the same settings, {sizes.pairs} pairs of one "
            "second under wrk, the order changing; the median of the ratios of a pair. granian's own has its threads "
            "set to clusterd's 4: without, it starts up to 512.",
            {
                "bare cpu": Column("processor time a request, clusterd/engine", 3),
                "bare rate": Column("requests/s, clusterd/engine", 3),
            },
        ),
    ]
