"""What processes take, as proportional set size (PSS): a page that n processes share counts 1/n in each. In MB."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground, descendants, free_port

APP = """
import itertools, os

def records(size):
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    made, enough = [], resident() + size
    while size and resident() < enough:
        for n in range(len(made), len(made) + 1000):
            made.append({{"id": n, "name": f"record {{n}}", "tags": [str(n), str(n + 1)], "price": n / 7}})
    return made

RECORDS = records({size})

def app(environ, start_response):
    body = f"{{sum(len(record['name']) for record in RECORDS[:10])}} by {{os.getpid()}}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
FEW, MANY = 1, 3


def pss(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found, pid
        total += int(found[1])
    return total / 1000


def ask(port: int, workers: int) -> None:
    """Each worker has answered some: what it takes for that is part of it."""
    end, asked, seen = time.monotonic() + HANG, 0, set()
    while asked < 60 or len(seen) < workers:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=HANG) as answer:
            asked += 1
            seen.add(answer.read())
        assert time.monotonic() < end, f"{len(seen)} of {workers} answer"


@contextmanager
def ours(workers: int, size: int) -> Iterator[Foreground]:
    with Foreground(workers) as cluster:
        (cluster.directory / "hello.py").write_text(APP.format(size=size))
        cluster.start()
        cluster.wait_for("everyone", cluster.at_rest)
        ask(cluster.port, workers)
        # the usher, too, is gone then
        cluster.wait_for("nobody else", cluster.accounted_for)
        yield cluster


@contextmanager
def gunicorn(directory: Path, workers: int) -> Iterator[int]:
    """Without preload, as it comes; its pid."""
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--workers", str(workers), "-k", "gthread", "--threads", "4"]
    argv = [sys.executable, "-m", "gunicorn", "hello:app", "--chdir", str(directory), "--log-level", "error", *options]
    process = subprocess.Popen(argv)
    try:
        end = time.monotonic() + HANG
        while process.poll() is None and (len(descendants(process.pid)) != workers or not listening(port)):
            assert time.monotonic() < end
            time.sleep(0.05)
        ask(port, workers)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(HANG)


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), HANG).close()
    except OSError:
        return False
    return True


@pytest.mark.proof
def test_further_worker(tmp_path: Path) -> None:
    """With 100 MB of objects a further worker takes at most half of what it takes with gunicorn without preload."""
    size = 100_000_000
    (tmp_path / "hello.py").write_text(APP.format(size=size))
    here, there = {}, {}
    for workers in FEW, MANY:
        with ours(workers, size) as cluster:
            here[workers] = pss(cluster.everything())
        with gunicorn(tmp_path, workers) as pid:
            there[workers] = pss([pid, *descendants(pid)])
    further, beside = ((taken[MANY] - taken[FEW]) / (MANY - FEW) for taken in (here, there))
    print(f"a further worker with 100 MB of objects: {further:.1f} MB, with gunicorn {beside:.1f} MB")
    assert beside > 50, "the application's data is not there"
    assert 0 < further <= beside / 2, (here, there)


@pytest.mark.proof
def test_what_is_not_a_worker() -> None:
    """Keeper, master, zygote and its twin together take less than 80 MB beside a small application."""
    with ours(2, 0) as cluster:
        workers = set(cluster.pids().values())
        status = cluster.status()
        master, zygote = status["master"]["pid"], status["generations"][0]["zygote"]
        others = pss(set(cluster.everything()) - workers)
        print(
            f"keeper, master, zygote, twin: {others:.1f} MB; master and zygote {pss([master, zygote]):.1f} MB;"
            f" a worker {pss(workers) / 2:.1f} MB"
        )
        assert others < 80
