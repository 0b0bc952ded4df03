"""What clusterd adds to a request: nothing, or a call that counts it. Ours and the bare engine are looked at alike."""

from __future__ import annotations

import functools
import json
import operator
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import ROOT, environment
from harness import Client
from websocket import WebSocket

from tests.lacking import lacking
from tests.patience import HANG

APPLICATION = """\
import asyncio, json, sys, threading

called = set()  # every function of Python that is called in any thread of the worker: (file, name)
callers = {}  # those in whose call the application was, by the kind of call

def note(frame, event, argument):
    if event == "call":
        called.add((frame.f_code.co_filename, frame.f_code.co_name))

sys.setprofile(note)  # of the thread that imports, which is the worker's main one after the fork
threading.setprofile(note)

def frames():
    frame, found = sys._getframe(2), []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found

def remember(kind, found, standing=()):
    callers[kind] = [(f.f_code.co_filename, f.f_code.co_name) for f in found if f not in standing]

def answer(path):
    if path == "/forget":
        called.clear()
    return json.dumps({"callers": callers, "called": sorted(called)} if path == "/report" else None).encode()

async def below():
    "What stands below all that the loop calls."
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: future.set_result(frames()))
    return await future

def wsgi(environ, start_response):
    remember("http", frames())
    sys.setprofile(note)  # where a thread is not Python's
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    remember(scope["type"], frames(), await below())
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            remember("message", frames(), await below())
            await send({"type": "websocket.send", "text": message["text"]})
        return
    body = answer(scope["path"])
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

ENGINES = {
    "uvicorn, httptools": ("uvicorn-newest", "asgi"),
    "uvicorn, h11": ("uvicorn-newest-plain", "asgi"),
    "uvicorn 0.17.6": ("uvicorn-0.17.6", "asgi"),
    "waitress": ("waitress-newest", "wsgi"),
    "waitress 2.1.2": ("waitress-2.1.2", "wsgi"),
}
"""Environment and interface. Without httptools, uvloop and websockets it is h11, asyncio and wsproto."""


def engines() -> list[Any]:
    """The newest; the others are for the proof."""
    return [pytest.param(name, marks=[] if "newest" in ENGINES[name][0] else pytest.mark.proof) for name in ENGINES]


@pytest.fixture
def ours(start, application: Path, slots) -> Iterator[Callable[[str], tuple[Any, int]]]:
    """ours(engine) -> address and pid of a worker."""

    def ours(engine: str) -> tuple[Any, int]:
        (application / "looking.py").write_text(APPLICATION)
        venv, app = ENGINES[engine]
        (slot,) = slots(1)
        master = start(python=environment(venv))
        master.up(app=f"looking:{app}", engine=venv.split("-")[0])
        return slot.getsockname(), master.serving([slot]).pid

    return ours


@pytest.fixture
def bare(application: Path) -> Iterator[Callable[[str], tuple[Any, int]]]:
    """bare(engine) -> address and pid of the engine alone, with the same settings on a socket of the same kind."""
    running: list[subprocess.Popen[str]] = []

    def bare(engine: str) -> tuple[Any, int]:
        (application / "looking.py").write_text(APPLICATION)
        venv, app = ENGINES[engine]
        script = str(ROOT / "tests/bench/apps/bare.py")
        process = subprocess.Popen(
            [environment(venv), script, venv.split("-")[0], f"looking:{app}", "0"],
            env={"PYTHONPATH": str(application)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        return ("127.0.0.1", int(process.stdout.readline())), process.pid

    yield bare
    for process in running:
        process.kill()
        process.communicate()


def look(address: Any, app: str) -> dict[str, Any]:
    """What the application saw of some requests, of a connection that was made for one, and of a WebSocket."""
    kept = Client(address)
    socket = WebSocket(address) if app == "asgi" else None
    kept.get("/forget")
    for _ in range(5):
        kept.get()
        if socket is not None:
            socket.send("word")
            assert socket.text() == "word"
    other = Client(address)
    other.get()
    found: dict[str, Any] = json.loads(kept.get("/report")[2])
    for one in (kept, other, *([socket] if socket else [])):
        one.close()
    return found


COUNTS = "counted"
"""The function that counts a request, for an engine that does not: it calls the application, and nothing else."""


def called(found: dict[str, Any], directory: Path) -> list[Any]:
    """The functions of what is in `directory` that were, but for the one that counts."""
    return [each for each in found["called"] if each[0].startswith(str(directory)) and each[1] != COUNTS]


def engines_own(callers: list[list[str]], directory: Path) -> list[list[str]]:
    """`callers` without the one that counts, which is there once at most."""
    own = [each for each in callers if not (each[0].startswith(str(directory)) and each[1] == COUNTS)]
    assert len(callers) - len(own) <= 1
    return own


def look_at_worker(address: Any, app: str, lib: Path) -> dict[str, Any]:
    """`look`, again while something of ours is called: a start, which no request waits for, ends; what a request calls
    is there each time."""
    end = time.monotonic() + HANG
    while called(found := look(address, app), lib) and time.monotonic() < end:
        pass
    return found


@pytest.mark.parametrize("engine", engines())
def test_nothing_of_ours_is_called_for_a_request(ours, bare, lib: Path, engine: str) -> None:
    """Not by the request, its connection or a message: no function of ours runs, and whoever calls the application is
    the engine, frame by frame as without us."""
    venv, app = ENGINES[engine]
    here, alone = look_at_worker(ours(engine)[0], app, lib), look(bare(engine)[0], app)
    assert not called(here, lib)
    assert [each for each in here["called"] if f"/{venv.split('-')[0]}/" in each[0]]
    counting = {kind: engines_own(callers, lib) for kind, callers in here["callers"].items()}
    assert counting == alone["callers"]
    assert (counting == here["callers"]) == (app == "asgi"), "uvicorn counts by itself, waitress does not"
    assert set(here["callers"]) == ({"http", "websocket", "message"} if app == "asgi" else {"http"})


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_nothing_of_ours_is_called_by_granian(start, application: Path, lib: Path, slots, app: str) -> None:
    """Above an application that is being called there is granian alone, and below it nothing of ours either."""
    (application / "looking.py").write_text(APPLICATION)
    (slot,) = slots(1)
    master = start(python=environment("granian-newest"))
    master.up(app=f"looking:{app}", engine="granian")
    master.serving([slot])
    found = look_at_worker(slot.getsockname(), app, lib)
    assert not called(found, lib)
    for kind in found["callers"]:
        callers = engines_own(found["callers"][kind], lib)
        assert all("/granian/" in file or "/asyncio/" in file for file, _ in callers), callers
        assert callers


REQUESTS = 300
CHANCE = {"futex", "sched_yield", "mmap", "munmap", "mremap", "madvise", "brk"}
WAITS = {"epoll_wait", "epoll_pwait", "poll"}


def system_calls(address: Any, pid: int, trace: Path) -> tuple[list[Counter[str]], float]:
    """Those of each of `REQUESTS` requests on a kept connection, with what else the process did until the next, and how
    long all of them took."""
    client = Client(address)
    client.get()
    command = ["strace", "-f", "-s", "8", "-o", str(trace), "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    said = strace.stderr.readline()
    if "attached" not in said:
        strace.wait()
        lacking(f"strace cannot look at a process here: {said.strip()}")
    began = time.monotonic()
    for _ in range(REQUESTS):
        client.get()
    strace.send_signal(signal.SIGINT)
    strace.communicate()
    seconds = time.monotonic() - began
    client.close()
    requests: list[Counter[str]] = []
    for line in trace.read_text().splitlines():
        if '"GET /' in line:
            requests.append(Counter())
        if requests and (called := re.match(r"\d+ +(\w+)\(", line)):
            requests[-1][called[1]] += 1
    assert len(requests) == REQUESTS
    return requests, seconds


def fewest_calls(address: Any, pid: int, trace: Path) -> tuple[Counter[str], float]:
    """Of each call the least of three rounds, and the shortest of them: what else goes on on the machine only adds.

    How often an engine waits is counted as in each of the requests with few waits: where the machine is busy, four of
    ten, or more, find it awake once more, with us and without.
    """
    found: list[tuple[Counter[str], float]] = []
    for _ in range(3):
        requests, seconds = system_calls(address, pid, trace)
        calls = functools.reduce(operator.add, requests)
        waits = {name: REQUESTS * sorted(each[name] for each in requests)[REQUESTS // 10] for name in WAITS}
        found.append((Counter({**calls, **waits}), seconds))
    return functools.reduce(operator.and_, (calls for calls, _ in found)), min(seconds for _, seconds in found)


@pytest.mark.parametrize("engine", engines())
def test_no_system_call_more(ours, bare, tmp_path: Path, engine: str) -> None:
    """A worker makes the system calls that its engine makes alone, and as many, but for those of threads that wait for
    each other and of the memory's allocator, whose number is chance."""
    lacking(None if shutil.which("strace") else "no strace")
    (here, seconds), (alone, _) = (fewest_calls(*run(engine), tmp_path / "trace") for run in (ours, bare))
    assert here["sendto"] + here["write"] >= REQUESTS
    few = min(REQUESTS // 10 + 20 * seconds, REQUESTS - 1)  # who was just being woken, and uvicorn's ten ticks a second
    more = {name: (n, alone[name]) for name, n in here.items() if n > alone[name] + few and name not in CHANCE}
    assert not more, (here, alone)
