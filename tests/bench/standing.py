"""What is measured not for load's sake: memory, rest, the time of a reload, what clusterd adds to its engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import load
import processes
from kit import APPS, VENV
from legs import Found, Sizes, Start, running, url
from ours import Bare, Clusterd
from servers import Failed, NotOffered, Server

HEAP = 100_000_000
MB = 1e6
WORKERS = 8
FEW, MANY = 2, 4
BIG_HEAP = 300_000_000


def memory(start: Start, cores: int, sizes: Sizes) -> Found:
    """An application of 100 MB on two and on four workers: what one worker more costs, and what all of it takes.

    Every worker has answered before it is looked at: what a worker takes for its first requests is part of it.
    """
    plain, touched, found = further_worker(start, heap=HEAP)
    found |= {"memory worker": plain, "memory touched": touched}
    if getattr(start, "shares", False):
        found["memory blob"] = further_worker(start, blob=HEAP)[1]
    return found


def further_worker(start: Start, **data: int) -> tuple[float, float, Found]:
    """MB of a further worker: before the data is read, and when each has read all of it; then what else was found."""
    plain, touched = {}, {}
    found: Found = {}
    for workers in FEW, MANY:
        with running(start(workers, **data)) as server:
            ask_everyone(server, "/pid")
            server.calm()
            plain[workers] = processes.pss(server.all()) / MB
            ask_everyone(server, "/touch")
            touched[workers] = processes.pss(server.all()) / MB
            server.settled()  # a process that had gone would have counted as nothing
            if workers == MANY and "heap" in data:
                found = {"memory total": plain[workers], **after_reload(server)}
    return (plain[MANY] - plain[FEW]) / (MANY - FEW), (touched[MANY] - touched[FEW]) / (MANY - FEW), found


def ask_everyone(server: Server, path: str) -> None:
    """Until every worker has answered: where they share a queue, one of them takes most and another waits long."""
    silent = set(server.workers())
    end = time.monotonic() + 30
    with ThreadPoolExecutor(8) as clients:
        while silent and time.monotonic() < end:
            silent -= set(clients.map(lambda _: who_answers(server.port, path, 30), range(16)))
    if silent:
        raise Failed(f"{len(silent)} of {server.count} workers have not answered '{path}' within 30 s")


def after_reload(server: Server) -> Found:
    try:
        if server.reload() is None:
            return {}
    except NotOffered:
        return {}
    server.settled()
    ask_everyone(server, "/pid")
    server.calm()
    return {"memory reloaded": processes.pss(server.all()) / MB}


def rest(start: Start, cores: int, sizes: Sizes) -> Found:
    """Nobody asks anything: how often what is not a worker wakes up, and what it takes."""
    with running(start(cores)) as server:
        server.calm()
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


def crash(start: Start, cores: int, sizes: Sizes) -> Found:
    """From the SIGKILL of one of two workers with 300 MB of objects until another process answers."""
    found: Found = {}
    for key, options in (("crash", {}), ("crash spare", {"spares": 1})):
        if options and not ours(start):
            break
        with running(start(2, heap=BIG_HEAP, **options)) as server:
            times = []
            for turn in range(sizes.crashes):
                time.sleep(server.between_kills)
                workers = server.workers()
                victim = workers[turn % len(workers)]
                times.append(succeeded(server, victim, set(workers)))
                server.replaced(victim)
            found[key] = median(times)
    return found


def succeeded(server: Server, victim: int, old: set[int]) -> float:
    """Seconds from the victim's death until a worker that is not among `old` answers."""
    os.kill(victim, signal.SIGKILL)
    died = time.monotonic()
    # half a second: what the dead one was handed is never answered by some, and says nothing of its successor
    while (pid := who_answers(server.port, "/pid", 0.5)) is None or pid in old:
        if time.monotonic() > died + 20:
            raise Failed("no other worker answers within 20 s of a kill")
        time.sleep(0.002)
    return time.monotonic() - died


def who_answers(port: int, path: str, seconds: float) -> int | None:
    """The pid of the process that answers, None when there is no answer in time."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
    except OSError:
        return None
    body = answer.partition(b"\r\n\r\n")[2]
    return int(body) if body.isdigit() else None


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


def board(start: Start, cores: int, sizes: Sizes) -> Found:
    """Processor time a request of one worker with the scoreboard, and of one without: pairs as for `bare`. And what a
    request is counted by, measured alone, which varies less: in per cent of the least such time."""
    if not ours(start):
        raise NotOffered("a scoreboard")
    ratios, least = [], float("inf")
    with running(start(1)) as seen, running(start(1, unseen=True)) as unseen:
        for one in (seen, unseen):
            load.wrk(url(one), 1)
        for pair in range(2 * sizes.pairs):
            found = {one: sample(one)[0] for one in ([seen, unseen] if pair % 2 else [unseen, seen])}
            ratios.append(found[seen] / found[unseen])
            least = min(least, found[unseen])
    counting = [str(VENV / "bin/python"), str(APPS / "counting.py"), start.engine]
    one, beat = map(float, subprocess.run(counting, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    spread = f"pairs {min(ratios):.3f} to {max(ratios):.3f}; counting a request takes {1e9 * one:.0f} ns"
    return {"board cpu": median(ratios), "board count": 100 * (one / least + beat), "board note": spread}


def sample(server: Server) -> tuple[float, float]:
    workers = server.workers()
    before = processes.cpu_seconds(workers)
    result = load.wrk(url(server), 1)
    return (processes.cpu_seconds(workers) - before) / max(1, result.done), result.rate


def ours(start: Start) -> bool:
    return isinstance(start, type) and issubclass(start, Clusterd)
