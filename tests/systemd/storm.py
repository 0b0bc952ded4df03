"""storm.py CONTROL PORT SEED CRASHES INTERVAL KIND...: in the machine, end a worker at random every INTERVAL seconds.

Prints one line of JSON: `ends` by kind, and `taken`. The first argument is where the control socket of the instance is.

`taken` counts the connections that the victims had accepted when they were stopped (SIGSTOP) to be killed. Who ends
from within cannot be looked at first: such a victim counts what it holds itself, and says so (see `VICTIM`).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, "/usr/share/clusterd")

from clusterd.shell import client
from clusterd.worker.wire import WireError

TIMEOUT = 120.0

KINDS = {
    "KILL": signal.SIGKILL,
    "SEGV": signal.SIGSEGV,
    "ABRT": signal.SIGABRT,
    "exit 0": signal.SIGRTMIN + 1,
    "exit 1": signal.SIGRTMIN + 2,
    "os._exit": signal.SIGRTMIN + 3,
    "uncaught": signal.SIGRTMIN + 4,
}
LOOKED_AT = ("KILL", "SEGV", "ABRT")
"""Stopped, counted, killed. The others are the application's own doing, at a signal."""

VICTIM = """

import atexit, signal, socket, sys, threading

accepted = []  # since the end began
accept = socket.socket.accept


def accepting(sock):
    found = accept(sock)
    accepted.append(None)
    return found


def held():
    count = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        with sock:
            try:
                count += sock.family == socket.AF_INET and bool(sock.getpeername())
            except OSError:
                pass
    return count


def say(count):
    os.write(1, f"storm: held {count}\\n".encode())


def die(number, frame):
    say(held())
    os._exit(3)


def leave(number, frame):
    # By the loop: what is raised in a request is the engine's to catch, and uvicorn answers it with 500.
    asyncio.get_running_loop().call_soon_threadsafe(go, number - signal.SIGRTMIN - 1)


def go(status):
    before = held()
    socket.socket.accept = accepting
    atexit.register(lambda: say(before + len(accepted)))
    sys.exit(status)


def fail(*_):
    raise RuntimeError("uncaught")


def uncaught(number, frame):
    asyncio.get_running_loop().call_soon_threadsafe(fail)
    asyncio.ensure_future(failing())
    threading.Thread(target=fail).start()


async def failing():
    fail()


for number, handler in enumerate((leave, leave, die, uncaught), 1):
    signal.signal(signal.SIGRTMIN + number, handler)
"""
"""Appended to an ASGI application that is served by asyncio's own loop: what it can do to itself."""


def status(control: str) -> dict[str, Any]:
    reply = list(client.call(control, "Status", {}, connect_timeout=TIMEOUT, timeout=TIMEOUT))[-1]
    found: dict[str, Any] = reply["status"]
    return found


def serving(control: str, struck: set[int | None]) -> list[int]:
    """Pids of those not `struck`, at least two: a storm that leaves nobody is another matter (the usher's 503)."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            workers = status(control)["workers"]
        except (OSError, WireError):
            workers = []  # a master that leaves, or has just left, with the question
        found = [w["pid"] for w in workers if w["state"] == "serving" and w["pid"] not in struck]
        if len(found) >= 2:
            return sorted(found)
        time.sleep(0.01)
    raise SystemExit("no two workers serve")


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it is so in every thread."""
    os.kill(pid, signal.SIGSTOP)
    while any(state(pid, task) not in "TtZX" for task in os.listdir(f"/proc/{pid}/task")):
        time.sleep(0.001)


def state(pid: int, task: str) -> str:
    with open(f"/proc/{pid}/task/{task}/stat") as f:
        return f.read().rpartition(")")[2].split()[0]


def connections(pid: int, port: int) -> int:
    listed = subprocess.run(["ss", "-Htnp", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return len(re.findall(rf"\bpid={pid},", listed))


def end(pid: int, kind: str, port: int) -> int:
    """The connections that it had taken, where they can be counted from outside."""
    if kind not in LOOKED_AT:
        os.kill(pid, KINDS[kind])
        return 0
    stop(pid)
    taken = connections(pid, port)
    os.kill(pid, KINDS[kind])
    if kind != "KILL":
        os.kill(pid, signal.SIGCONT)
    return taken


def main(control: str, port: int, seed: int, crashes: int, interval: float, kinds: list[str]) -> None:
    chance = random.Random(seed)
    ends, taken = dict.fromkeys(kinds, 0), 0
    struck: set[int | None] = {None}  # who serves no more, though the master has not heard of it yet
    due = time.monotonic()
    while sum(ends.values()) < crashes:
        kind = chance.choice(kinds)
        victim = chance.choice(serving(control, struck))
        taken += end(victim, kind, port)
        ends[kind] += 1
        if kind != "uncaught":
            struck.add(victim)
        due += interval
        if (early := due - time.monotonic()) > 0:
            time.sleep(early)
        else:
            due -= early  # the machine cannot follow: no more than one an interval, ever
    print(json.dumps({"ends": ends, "taken": taken}))


if __name__ == "__main__":
    where, port, seed, crashes, interval, *kinds = sys.argv[1:]
    main(where, int(port), int(seed), int(crashes), float(interval), kinds)
