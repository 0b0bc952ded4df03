"""The legs in their order, and what becomes of their figures: which table, which column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import legs
import standing
from legs import Found, Sizes, Start
from ours import Clusterd, ClusterdGranian, ClusterdWsgi
from peers import (
    Granian,
    GranianWsgi,
    GunicornGthread,
    GunicornPreload,
    GunicornUvicorn,
    Hypercorn,
    Node,
    Pm2,
    Uvicorn,
    Uwsgi,
)  # fmt: skip
from servers import Server

SERVERS: tuple[type[Server], ...] = (
    Clusterd, Uvicorn, GunicornUvicorn, GunicornPreload, Granian, Hypercorn,
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
    "crash": standing.crash,
    "rest": standing.rest,
    "swift": standing.swift,
    "bare": standing.bare,
    "board": standing.board,
}
AGAIN = frozenset({"wrk", "ab", "reload"})
"""Legs of every round. The others are of the first alone: they are long, or vary little."""


@dataclass(frozen=True)
class Column:
    """One figure of each server: which leg finds it, and how the tables show it."""

    leg: str
    title: str
    digits: int = 0
    show: Literal["figure", "both", "ratio", "sum"] = "figure"
    """`both`: the ratio to the first server of the kind in brackets; `sum`: of all rounds, instead of their median"""


@dataclass(frozen=True)
class Table:
    title: str
    text: str
    columns: dict[str, Column]


def tables(sizes: Sizes, cores: int) -> list[Table]:
    times = "once" if sizes.reloads == 1 else f"{sizes.reloads} times"
    return [
        Table(
            "At a glance",
            "Ratios to uvicorn, gunicorn with threads, and Node's cluster; failed requests are a count, of all rounds.",
            {
                "wrk rate": Column("wrk", "requests/s, kept connections", show="ratio"),
                "ab rate": Column("ab", "requests/s, a connection each", show="ratio"),
                "wrk cpu": Column("wrk", "processor time a request", show="ratio"),
                "reload failures": Column("reload", "**failed at reloads**", show="sum"),
                "memory worker": Column("memory", "memory of a further worker", show="ratio"),
                "memory touched": Column("memory", "... all data read", show="ratio"),
                "crash": Column("crash", "time to a dead worker's successor", show="ratio"),
            },
        ),
        Table(
            "Throughput",
            "`/` answers `hello`. Kept connections: wrk with 64. A connection a request: ab with 50 at once. "
            "Computing: a request of some milliseconds of Python or JavaScript, ab with 200 at once, on 1 and on "
            f"{cores} workers. Processor time is that of all the server's processes, the kernel's part of it "
            "included.",
            {
                "wrk rate": Column("wrk", "kept, requests/s", show="both"),
                "wrk p99": Column("wrk", "99th percentile, ms", 1, show="both"),
                "wrk cpu": Column("wrk", "processor, us/request", 1, show="both"),
                "ab rate": Column("ab", "connection each, requests/s", show="both"),
                "ab cpu": Column("ab", "processor, us/request", 1, show="both"),
                "cpu all": Column("cpu", "computing, requests/s", show="both"),
                "cpu gain": Column("cpu", f"gain of {cores} workers over 1", 2),
            },
        ),
        Table(
            "Reload",
            f"All workers replaced {times} a round under wrk, as each server offers it. `until done` ends when no old "
            "worker accepts and, for clusterd, every new one serves and has lived through its soak (2 s, "
            "`[reload] soak`); for the others, when the last old process has gone and the new ones exist, ready or "
            "not.",
            {
                "reload failures": Column("reload", "failed requests a round"),
                "reload p99": Column("reload", "99th percentile meanwhile, ms", 1),
                "reload seconds": Column("reload", "until done, s", 1),
                "swift": Column("swift", f"{standing.WORKERS} idle workers, until done, s", 2),
                "swift no soak": Column("swift", "... with soak = 0, s", 2),
            },
        ),
        Table(
            "Death of workers",
            f"{sizes.kills} SIGKILLs under load, the workers in turn, each when all are there again. `held` are "
            "the connections the victims had accepted: under wrk each has a request in it, and is lost whoever "
            "started the worker. To hold few of them is no merit either: it means that another worker did most of "
            "the work, or that a router holds them. `dying`: every worker exits within "
            f"{sizes.die} s of its start, at random, under ab with 200 at once. `successor`: one of two workers with "
            f"300 MB of objects is killed, at rest; the time until a new process answers, mean of {sizes.crashes}. "
            "`spare`: with `[restart] spares = 1`, a worker that waits ready.",
            {
                "wrk kill failures": Column("kill", "wrk: failed"),
                "wrk kill held": Column("kill", "held"),
                "ab kill failures": Column("kill", "ab: failed"),
                "ab kill held": Column("kill", "held"),
                "dying failures": Column("die", "dying: failed"),
                "dying availability": Column("die", "answered, %", 3),
                "crash": Column("crash", "successor, s", 3, show="both"),
                "crash spare": Column("crash", "... with a spare, s", 3),
            },
        ),
        Table(
            "Memory and rest",
            "An application with 100 MB of data, read at import. Memory is PSS, of every process of the server: a page "
            f"that n processes share counts 1/n in each. `further worker`: the difference between {standing.MANY} and "
            f"{standing.FEW} workers, by worker, after requests to each. **`objects`** are small ones of Python or "
            "JavaScript, dicts, lists and strings. *Read rarely* is what an application does that looks a few of them "
            "up; *all read* is the other end: reading a Python object writes its reference count, which ends the "
            "sharing of its page, so that forking from an imported application saves less and less. **`bytes`**, in "
            "one piece, stay shared however often they are read (measured where workers are forked). "
            "After a reload clusterd keeps the previous "
            "generation, which can come back, in memory: that is its price. At rest, with the small application and "
            "nobody asking: what is not a worker (for clusterd keeper, master, zygote, twin).",
            {
                "memory worker": Column("memory", "further worker, objects read rarely, MB", 1, show="both"),
                "memory touched": Column("memory", "... all read, MB", 1, show="both"),
                "memory blob": Column("memory", "... bytes, all read, MB", 1, show="both"),
                "memory total": Column("memory", f"{standing.MANY} workers and all, MB"),
                "memory reloaded": Column("memory", "... after a reload, MB"),
                "rest processes": Column("rest", "at rest: processes"),
                "rest memory": Column("rest", "their memory, MB", 1),
                "rest wakeups": Column("rest", "their wake-ups/s", 1),
            },
        ),
        Table(
            "What clusterd adds to its engine",
            f"One worker of clusterd and the engine's own server with the same settings, {sizes.pairs} pairs of one "
            "second under wrk, the order changing; the median of the ratios of a pair. granian's own has clusterd's 4 "
            "threads, where it would start up to 512, and believes a proxy on this machine too.",
            {
                "bare cpu": Column("bare", "processor time a request, clusterd/engine", 3),
                "bare rate": Column("bare", "requests/s, clusterd/engine", 3),
                "board cpu": Column("board", "processor time a request, with/without the scoreboard", 3),
                "board count": Column("board", "what counts a request, alone, %", 2),
            },
        ),
    ]
