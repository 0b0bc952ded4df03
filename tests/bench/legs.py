"""What is measured under load: one function a leg, each on a server started for it alone. Durations in seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import load
import processes
from load import Result
from servers import Failed, Server

Start = Callable[..., Server]
Found = dict[str, float | str]
"""Figures by key; a text is a note on the leg that its key begins with."""


@dataclass(frozen=True)
class Sizes:
    seconds: int = 3
    """of a throughput leg"""
    reloads: int = 2
    kills: int = 3
    cpu: int = 3
    die: int = 5
    pairs: int = 12
    rest: int = 4
    """seconds of watching a server that nobody asks anything"""
    crashes: int = 2


FULL = Sizes()
QUICK = Sizes(seconds=1, reloads=1, kills=2, cpu=2, die=3, pairs=3, rest=2, crashes=1)


def url(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def warm(server: Server) -> None:
    load.wrk(url(server), 1)


def keep_alive(start: Start, cores: int, sizes: Sizes) -> Found:
    with running(start(cores)) as server:
        warm(server)
        before = server.cpu_seconds()
        result = load.wrk(url(server), sizes.seconds)
        cost = (server.cpu_seconds() - before) / max(1, result.done)
        figures = {"wrk rate": result.rate, "wrk cpu": 1e6 * cost, "wrk p99": 1000 * (result.p99 or 0)}
        return {**figures, **note("wrk", result)}


def connection_each(start: Start, cores: int, sizes: Sizes) -> Found:
    with running(start(cores)) as server:
        warm(server)
        before = server.cpu_seconds()
        result = load.ab(url(server), sizes.seconds, connections=50)
        cost = (server.cpu_seconds() - before) / max(1, result.done)
        return {"ab rate": result.rate, "ab cpu": 1e6 * cost, **note("ab", result)}


def reloads(start: Start, cores: int, sizes: Sizes) -> Found:
    """Reload after reload under wrk, each waited for; the load begins before the first and outlives the last."""
    with running(start(cores)) as server:
        warm(server)
        traffic = load.Wrk(url(server))
        try:
            times = []
            time.sleep(1)
            for _ in range(sizes.reloads):
                times.append(server.reload())
                time.sleep(1)
            result = traffic.finish()
        except BaseException:
            traffic.kill()
            raise
        done = [seconds for seconds in times if seconds is not None]
        short = {} if len(done) == len(times) else {"reload note": f"only {len(done)} of {len(times)} replaced all"}
        seconds = {"reload seconds": median(done)} if done else {}
        figures = {"reload failures": float(result.failed), "reload p99": 1000 * (result.p99 or 0)}
        return {**figures, **seconds, **note("reload", result), **short}


def kills(start: Start, cores: int, sizes: Sizes) -> Found:
    """SIGKILL of the workers in turn, each when all are there again: under wrk, then under ab.

    In turn, because on a shared queue the newest workers take nearly all connections and the oldest idle. What a victim
    holds is counted while it is stopped: those requests are lost whatever the server does.
    """
    figures: Found = {}
    for tool in ("wrk", "ab"):
        with running(start(cores)) as server:
            warm(server)
            traffic = (
                load.Wrk(url(server), limit=90) if tool == "wrk" else load.Ab(url(server), connections=50, seconds=90)
            )
            held, done = 0, 0
            try:
                for turn in range(sizes.kills):
                    time.sleep(server.between_kills)
                    workers = server.workers()
                    victim = workers[turn % len(workers)]
                    os.kill(victim, signal.SIGSTOP)
                    held += processes.connections(victim, server.port)
                    os.kill(victim, signal.SIGKILL)
                    done += 1
                    server.replaced(victim)
            except (Failed, ZeroDivisionError, ProcessLookupError) as e:
                traffic.kill()
                raise Failed(f"after {done} kills, under {tool}: {e}") from None
            except BaseException:
                traffic.kill()
                raise
            time.sleep(0.5)
            result = traffic.finish()
            figures |= {f"{tool} kill failures": float(result.failed), f"{tool} kill held": float(held)}
            figures |= note(f"{tool} kill", result)
    return figures


def cpu(start: Start, cores: int, sizes: Sizes) -> Found:
    """A request that computes, on one worker and on one per core: what a cluster is for."""
    rates = []
    notes: dict[str, str] = {}
    for workers in (1, cores):
        with running(start(workers)) as server:
            result = load.ab(url(server, "/cpu"), sizes.cpu, connections=200)
            rates.append(result.rate)
            notes |= note(f"cpu {workers}", result)
    return {"cpu one": rates[0], "cpu all": rates[1], "cpu gain": rates[1] / rates[0] if rates[0] else 0.0, **notes}


def dying(start: Start, cores: int, sizes: Sizes) -> Found:
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
