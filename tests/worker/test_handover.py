"""Workers replaced under load: no request fails, whatever the engine, its version and the interpreter.

Each load is bounded in time and on loopback. wrk keeps its connections, ab makes one for each request.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from environments import CASES, ROOT, Case, environment, interpreters
from harness import Client, Master, Worker, signal_pidfd

from tests.lacking import lacking
from tests.patience import HANG

HANDOVERS = 3
PACE = 1.5
"""Seconds from one to the next, at least."""
MOST_SECONDS = 120
"""No load runs longer, whatever becomes of the test."""
INTERPRETERS = interpreters()


class Loads:
    """wrk and ab beside each other, until `finish`, which asserts that neither saw anything wrong."""

    def __init__(self, port: int) -> None:
        url = f"http://127.0.0.1:{port}/pid"
        self.began = time.monotonic()
        self.wrk = self._start("wrk", "-t1", "-c24", f"-d{MOST_SECONDS}s", "--timeout", "30s", url)
        # -n after -t, which sets it to 50,000.
        self.ab = self._start("ab", "-q", "-r", "-l", "-c8", f"-t{MOST_SECONDS}", "-n10000000", url)

    @staticmethod
    def _start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @property
    def running(self) -> bool:
        return self.wrk.poll() is None and self.ab.poll() is None

    def finish(self) -> int:
        """End them; how many requests were answered."""
        for process in (self.wrk, self.ab):
            process.send_signal(signal.SIGINT)
        wrk, _ = self.wrk.communicate(timeout=HANG)
        ab, _ = self.ab.communicate(timeout=HANG)
        assert self.wrk.returncode == 0, wrk
        assert "Socket errors" not in wrk and "Non-2xx" not in wrk, wrk
        assert self.ab.returncode in (0, 1), ab  # 1: by SIGINT
        assert re.search(r"Failed requests:\s+0\b", ab), ab
        assert "Non-2xx" not in ab, ab
        done = [re.search(r"(\d+) requests in", wrk), re.search(r"Complete requests:\s+(\d+)", ab)]
        counts = [int(match[1]) if match else 0 for match in done]
        assert all(counts), wrk + ab
        return sum(counts)

    def close(self) -> None:
        for process in (self.wrk, self.ab):
            process.kill()
            process.communicate()


Load = Callable[[int], Loads]


@pytest.fixture
def load() -> Iterator[Load]:
    for program in ("wrk", "ab"):
        if shutil.which(program) is None:
            lacking(f"no {program}")
    started: list[Loads] = []

    def load(port: int) -> Loads:
        started.append(Loads(port))
        return started[-1]

    yield load
    for one in started:
        one.close()


def dropped() -> tuple[int, int]:
    """TcpExtListenOverflows and TcpExtListenDrops of this network namespace."""
    with open("/proc/net/netstat") as f:
        lines = [line.split() for line in f if line.startswith("TcpExt:")]
    table = dict(zip(lines[0], lines[1], strict=True))
    return int(table["ListenOverflows"]), int(table["ListenDrops"])


def hand_over(loads: Loads, replace: Callable[[], None]) -> None:
    """Replace everything HANDOVERS times, spread over the load, which outlives the last one."""
    for number in range(HANDOVERS):
        due = loads.began + (number + 0.5) * PACE
        time.sleep(max(0.0, due - time.monotonic()))  # the pace of the load, nothing is waited for
        replace()
    assert loads.running, "the load was over before the last handover"


def check_app(master: Master, slots: list[socket.socket], load: Load) -> None:
    workers = [master.serving([slot], n) for n, slot in enumerate(slots)]
    reports = []

    def replace() -> None:
        nonlocal workers
        unheard = {f"{worker.pid}\n" for worker in workers}
        while unheard:  # each has had a request of this one's, if the loads were late
            client = Client(slots[0].getsockname())
            unheard.discard(client.get("/pid")[2])
            client.close()
        new = [master.fork([slot], n) for n, slot in enumerate(slots)]
        for worker in new:
            worker.go()
        for worker in new:
            worker.serve()
        for worker in workers:
            worker.drain(linger=30)
        reports.extend([worker.drained() for worker in workers])
        deaths = [master.zygote.expect("exited") for _ in workers]
        assert {death["worker"]: death["status"] for death in deaths} == {worker.number: 0 for worker in workers}
        workers = new

    before = dropped()
    loads = load(slots[0].getsockname()[1])
    hand_over(loads, replace)
    loads.finish()
    assert dropped() == before
    assert [report["cut"] for report in reports] == [0] * len(slots) * HANDOVERS
    assert all(report["requests"] is None or report["requests"] > 0 for report in reports)


# The containers reload the others, as Debian has them and the newest, under the same load and longer.
ON_OTHERS = ("uvicorn-newest-plain", "granian-newest", "granian-newest-asgi")
OFTEN = ("uvicorn-0.17.6-plain", "uvicorn-newest-plain", "waitress-newest", "granian-newest-asgi")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case.name in OFTEN else pytest.mark.proof, id=case.name) for case in CASES],
)
def test_nothing_is_lost(start, slots, load, case: Case):
    """Three handovers of two workers under wrk and ab: no failed request, error, time-out or dropped connection."""
    master = start(python=environment(case.environment))
    master.up(**case.boot)
    check_app(master, slots(2), load)


@pytest.mark.parametrize("python", [version for version in INTERPRETERS if version != "3.11"])
@pytest.mark.parametrize("case", [case for case in CASES if case.name in ON_OTHERS], ids=lambda case: case.name)
def test_nothing_is_lost_on_other_interpreters(start, slots, load, python, case: Case):
    """The same on every CPython there is: plain asyncio, whose listeners differ, and granian, built for each."""
    master = start(python=environment(case.environment, INTERPRETERS[python]))
    assert master.up(**case.boot)["python"].startswith(python + ".")
    check_app(master, slots(2), load)


def test_nothing_is_lost_by_spawned_workers(start, application, slots, load):
    """Workers that import for themselves hand over the same way."""
    master = start(python=environment("uvicorn-newest"))
    assert master.up(preload="never")["mode"] == "spawn"
    check_app(master, slots(2), load)


def test_nothing_is_lost_by_node(start, slots, load, tmp_path):
    """examples/node: the staged drain a `command` has to do for itself."""
    if shutil.which("node") is None:
        lacking("no node")
    master = start(directory=ROOT / "examples/node", env={"LINGER": "30"})
    master.up(kind="command", command=["node", "server.js"])
    check_command(master, slots(2), load, tmp_path)


def test_nothing_is_lost_by_a_socket_server(start, slots, load, tmp_path):
    """examples/socketserver: the same in Python."""
    pytest.importorskip("sdnotify")
    import sys

    master = start(directory=ROOT / "examples/socketserver", env={"LINGER": "30", "PYTHONDONTWRITEBYTECODE": "1"})
    master.up(kind="command", command=[sys.executable, "server.py"])
    check_command(master, slots(2), load, tmp_path)


def check_command(master: Master, slots: list[socket.socket], load: Load, tmp_path) -> None:
    numbers = iter(range(1000))

    def serving(slot: socket.socket, number: int) -> Worker:
        path = str(tmp_path / f"notify-{next(numbers)}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(HANG)
            worker = master.fork([slot], number, notify=path)
            worker.peer.send({"op": "go"})
            assert b"READY=1" in notify.recv(4096)
        return worker

    workers = [serving(slot, n) for n, slot in enumerate(slots)]

    def replace() -> None:
        nonlocal workers
        new = [serving(slot, n) for n, slot in enumerate(slots)]
        for worker in workers:
            signal_pidfd(worker.pidfd, signal.SIGTERM)
        statuses = {}
        for worker in workers:
            assert worker.gone()
            message = master.zygote.expect("exited")
            statuses[message["worker"]] = os.waitstatus_to_exitcode(message["status"])
        assert statuses == {worker.number: 0 for worker in workers}
        workers = new

    before = dropped()
    loads = load(slots[0].getsockname()[1])
    hand_over(loads, replace)
    loads.finish()
    assert dropped() == before
