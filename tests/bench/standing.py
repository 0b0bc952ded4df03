"""What is measured not for load's sake: memory, rest, the time of a reload, what clusterd adds to its engine."""

from __future__ import annotations

import time
from statistics import median

import load
import processes
from legs import Found, Sizes, Start, running, url
from ours import Bare, Clusterd
from servers import NotOffered, Server

HEAP = 100_000_000
MB = 1e6
WORKERS = 8


def memory(start: Start, cores: int, sizes: Sizes) -> Found:
    """An application of 100 MB on two and on four workers: what one worker more costs, and what all of it takes."""
    taken: dict[int, list[float]] = {}
    after: Found = {}
    for workers in (2, 4):
        with running(start(workers, heap=HEAP)) as server:
            load.wrk(url(server), 1)
            plain = processes.pss(server.all()) / MB
            load.wrk(url(server, "/touch"), 2)
            taken[workers] = [plain, processes.pss(server.all()) / MB]
            if workers == 4:
                after = {"memory total": plain, **after_reload(server)}
    plain, touched = ((four - two) / 2 for two, four in zip(taken[2], taken[4], strict=True))
    return {"memory worker": plain, "memory touched": touched, **after}


def after_reload(server: Server) -> Found:
    try:
        if server.reload() is None:
            return {}
    except NotOffered:
        return {}
    server.settled()
    load.wrk(url(server), 1)
    return {"memory reloaded": processes.pss(server.all()) / MB}


def rest(start: Start, cores: int, sizes: Sizes) -> Found:
    """Nobody asks anything: how often what is not a worker wakes up, and what it takes."""
    with running(start(cores)) as server:
        others = server.others()
        time.sleep(1)
        before = processes.wakeups(others)
        time.sleep(sizes.rest)
        return {
            "rest wakeups": (processes.wakeups(others) - before) / sizes.rest,
            "rest processes": float(len(others)),
            "rest memory": processes.pss(others) / MB,
        }


def swift(start: Start, cores: int, sizes: Sizes) -> Found:
    """One reload of eight workers that nobody asks anything; clusterd's without its soak too."""
    found: Found = {}
    for key, options in (("swift", {}), ("swift no soak", {"soak": "0s"})):
        if options and not ours(start):
            break
        with running(start(WORKERS, **options)) as server:
            seconds = server.reload()
            if seconds is not None:
                found[key] = seconds
    return found


def bare(start: Start, cores: int, sizes: Sizes) -> Found:
    """Processor time a request of one worker, and of its engine alone: many short pairs, the order changing."""
    if not ours(start):
        raise NotOffered("an engine of another's")
    ratios, rates = [], []
    with running(start(1)) as server, running(Bare(start)) as engine:
        for one in (server, engine):
            load.wrk(url(one), 1)
        for pair in range(sizes.pairs):
            found = {one: sample(one) for one in ([server, engine] if pair % 2 else [engine, server])}
            ratios.append(found[server][0] / found[engine][0])
            rates.append(found[server][1] / found[engine][1])
    spread = f"pairs {min(ratios):.3f} to {max(ratios):.3f}"
    return {"bare cpu": median(ratios), "bare rate": median(rates), "bare note": spread}


def sample(server: Server) -> tuple[float, float]:
    workers = server.workers()
    before = processes.cpu_seconds(workers)
    result = load.wrk(url(server), 1)
    return (processes.cpu_seconds(workers) - before) / max(1, result.done), result.rate


def ours(start: Start) -> bool:
    return isinstance(start, type) and issubclass(start, Clusterd)
