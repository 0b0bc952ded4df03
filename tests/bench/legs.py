"""What is measured: one function a leg, each on a server started for it alone. Durations in seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import load
from load import Result
from servers import Failed, Server

Start = Callable[..., Server]


@dataclass(frozen=True)
class Sizes:
    seconds: int
    """of a throughput leg"""
    reloads: int = 3
    kills: int = 9
    cpu: int = 10
    die: int = 10


FULL = Sizes(seconds=5)
QUICK = Sizes(seconds=2, reloads=1, kills=3, cpu=3, die=5)


@dataclass(frozen=True)
class Row:
    """One row of the table: a figure per server and round, and how to sum the rounds up."""

    title: str
    unit: str
    digits: int = 0
    ratio: bool = True


def url(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def warm(server: Server) -> None:
    load.wrk(url(server), 1)


def keep_alive(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    with running(start(cores)) as server:
        warm(server)
        before = server.cpu_seconds()
        result = load.wrk(url(server), sizes.seconds)
        cost = (server.cpu_seconds() - before) / max(1, result.done)
        figures = {"wrk rate": result.rate, "wrk cpu": 1e6 * cost, "wrk p99": 1000 * (result.p99 or 0)}
        return {**figures, **note("wrk", result)}


def connection_each(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    with running(start(cores)) as server:
        warm(server)
        before = server.cpu_seconds()
        result = load.ab(url(server), sizes.seconds, connections=50)
        cost = (server.cpu_seconds() - before) / max(1, result.done)
        return {"ab rate": result.rate, "ab cpu": 1e6 * cost, **note("ab", result)}


def reloads(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    """Reload after reload under wrk, each waited for; the load begins before the first and outlives the last."""
    with running(start(cores)) as server:
        warm(server)
        traffic = load.Wrk(url(server))
        try:
            replaced, times = 0, []
            time.sleep(1)
            for _ in range(sizes.reloads):
                before = time.monotonic()
                replaced += server.reload()
                times.append(time.monotonic() - before)
                time.sleep(1)
            result = traffic.finish()
        except BaseException:
            traffic.kill()
            raise
        short = {} if replaced == sizes.reloads else {"reload note": f"only {replaced} of {sizes.reloads} replaced all"}
        figures = {
            "reload failures": float(result.failed),
            "reload p99": 1000 * (result.p99 or 0),
            "reload seconds": median(times),
        }
        return {**figures, **note("reload", result), **short}


def kills(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    """SIGKILL of the oldest worker again and again, each time when all workers are there: under wrk, then under ab."""
    figures: dict[str, float | str] = {}
    for tool in ("wrk", "ab"):
        with running(start(cores)) as server:
            warm(server)
            traffic = load.Wrk(url(server)) if tool == "wrk" else load.Ab(url(server), connections=50, seconds=60)
            done = 0
            try:
                for _ in range(sizes.kills):
                    time.sleep(0.5)
                    victim = server.workers()[0]
                    os.kill(victim, signal.SIGKILL)
                    done += 1
                    server.replaced(victim)
            except (Failed, IndexError) as e:
                figures[f"{tool} kill note"] = f"after {done} kills: {e}"
            except BaseException:
                traffic.kill()
                raise
            time.sleep(0.5)
            result = traffic.finish()
            figures |= {f"{tool} kill failures": float(result.failed), **note(f"{tool} kill", result)}
    return figures


def cpu(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    """A request that computes, on one worker and on one per core: what a cluster is for."""
    rates = []
    notes: dict[str, str] = {}
    for workers in (1, cores):
        with running(start(workers)) as server:
            result = load.ab(url(server, "/cpu"), sizes.cpu, connections=200)
            rates.append(result.rate)
            notes |= note(f"cpu {workers}", result)
    return {"cpu one": rates[0], "cpu all": rates[1], "cpu gain": rates[1] / rates[0] if rates[0] else 0.0, **notes}


def dying(start: Start, cores: int, sizes: Sizes) -> dict[str, float | str]:
    with running(start(cores, die=sizes.die)) as server:
        result = load.ab(url(server), sizes.die, connections=200)
        figures = {"dying failures": float(result.failed), "dying availability": result.availability}
        return {**figures, **note("dying", result)}


def note(leg: str, result: Result) -> dict[str, str]:
    return {f"{leg} detail": result.detail} if result.detail else {}


class running:
    """Stop the server at the end of the block, whatever happens in it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> Server:
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.stop()


LEGS: dict[str, Callable[[Start, int, Sizes], dict[str, float | str]]] = {
    "wrk": keep_alive,
    "ab": connection_each,
    "reload": reloads,
    "kill": kills,
    "cpu": cpu,
    "die": dying,
}


def rows(sizes: Sizes, cores: int) -> dict[str, Row]:
    many = "once" if sizes.reloads == 1 else f"{sizes.reloads} times"
    return {
        "wrk rate": Row("64 kept connections (wrk)", "requests/s"),
        "wrk p99": Row("... their 99th percentile", "ms", 1),
        "wrk cpu": Row("... processor time a request", "us", 1),
        "ab rate": Row("a connection a request, 50 at once (ab)", "requests/s"),
        "ab cpu": Row("... processor time a request", "us", 1),
        "reload failures": Row(f"reloaded {many} under wrk", "failed requests", ratio=False),
        "reload p99": Row("... 99th percentile meanwhile", "ms", 1),
        "reload seconds": Row("... until every worker is a new one", "s", 1, ratio=False),
        "wrk kill failures": Row(f"{sizes.kills} SIGKILLs of workers under wrk", "failed requests", ratio=False),
        "ab kill failures": Row(f"{sizes.kills} SIGKILLs of workers under ab", "failed requests", ratio=False),
        "cpu one": Row("computing, one worker (ab -c200)", "requests/s"),
        "cpu all": Row(f"computing, {cores} workers (ab -c200)", "requests/s"),
        "cpu gain": Row("... gain over one worker", "times", 2, ratio=False),
        "dying failures": Row(f"every worker exits within {sizes.die} s (ab -c200)", "failed requests", ratio=False),
        "dying availability": Row("... answered", "%", 3, ratio=False),
    }
