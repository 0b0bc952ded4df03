"""Processes and threads that an application begins in its worker: they are its own, and end as it has them end."""

from __future__ import annotations

import json
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
from environments import environment
from harness import Client, Master, Worker

ENGINES = [
    pytest.param("uvicorn-newest", "asgi", id="uvicorn-uvloop"),
    pytest.param("uvicorn-newest-plain", "asgi", id="uvicorn-asyncio"),
    pytest.param("waitress-newest", "wsgi", id="waitress"),
    pytest.param("granian-newest", "wsgi", id="granian-wsgi"),
    pytest.param("granian-newest", "asgi", id="granian-asgi", marks=pytest.mark.proof),
]

BOTH = """\
import asyncio, json, multiprocessing, os, signal, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

multiprocessing.set_start_method("fork")

def wsgi(environ, start_response):
    body = json.dumps(answer(environ["PATH_INFO"])).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    body = json.dumps(await asyncio.to_thread(answer, scope["path"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

"""


@pytest.fixture
def serve(start: Any, application: Path, slots: Any) -> Any:
    """serve(code, venv, app) -> a master, a worker of it that serves that, and a client of the worker's."""

    def serve(code: str, venv: str, app: str, **boot: Any) -> tuple[Master, Worker, Client]:
        (application / "begins.py").write_text(BOTH + code)
        (slot,) = slots(1)
        master = start(python=environment(venv))
        up = master.up(app=f"begins:{app}", engine=venv.split("-")[0], **boot)
        assert up["mode"] == "fork", up
        return master, master.serving([slot]), Client(slot.getsockname())

    return serve


def asked(client: Client, path: str = "/") -> Any:
    status, _, body = client.get(path)
    assert status == 200, body
    return json.loads(body)


TERMINATED = """
def wait(pipe):
    pipe.send([getattr(signal.getsignal(n), "__name__", n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)])
    while True:
        signal.pause()

def square(number):
    return number * number

def answer(path):
    if path == "/pool":
        with multiprocessing.Pool(2) as pool:
            return pool.map(square, range(4))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.Process(target=wait, args=(theirs,))
    child.start()
    found = ours.recv()
    child.terminate()
    child.join()
    return [child.exitcode, *found]
"""


@pytest.mark.parametrize(("venv", "app"), ENGINES)
def test_a_child_is_ended_by_sigterm(serve: Any, venv: str, app: str) -> None:
    """`Process.terminate()` and a pool's end, forked by whatever thread, end the children and not the worker."""
    master, worker, client = serve(TERMINATED, venv, app)
    assert asked(client) == [-15, 15, "default_int_handler", 1]
    assert asked(client, "/pool") == [0, 1, 4, 9]
    client.close()
    worker.drain()  # the first that it hears of an end
    worker.drained()
    assert master.exited(worker) == 0


OWN = (
    """
def own(number, frame):
    os._exit(42)

signal.signal(signal.SIGTERM, own)
"""
    + TERMINATED
)


def test_a_handler_of_the_applications_own(serve: Any) -> None:
    """What it has for SIGTERM at its import is what its children have, and not the worker."""
    _, worker, client = serve(OWN, "waitress-newest", "wsgi")
    assert asked(client)[:2] == [42, "own"]
    client.close()
    os.kill(worker.pid, 15)
    worker.drained()


POOL = """
pool = None

def pid():
    return os.getpid()

def answer(path):
    global pool
    pool = pool or ProcessPoolExecutor(2)
    return pool.submit(pid).result()
"""


@pytest.mark.parametrize(("venv", "app"), ENGINES)
def test_a_pool_of_processes_ends_with_its_worker(serve: Any, venv: str, app: str) -> None:
    """A worker that has one leaves by itself, and takes its processes with it."""
    master, worker, client = serve(POOL, venv, app)
    child = os.pidfd_open(asked(client))
    client.close()
    worker.drain()
    worker.drained()
    assert master.exited(worker) == 0
    assert select.select([child], [], [], 0)[0]
    os.close(child)


def test_a_pool_of_processes_ends_with_its_task(serve: Any) -> None:
    """The same of a run of a task."""
    patient = "from clusterd.worker import child\nchild.LAST_WORDS = 120.0\n"
    master, _, client = serve(f"{POOL}{patient}def task():\n    return answer('')\n", "waitress-newest", "wsgi")
    run = master.fork([], task={"name": "pids", "call": "begins:task", "publish": None})
    run.peer.send({"op": "go"})
    child = os.pidfd_open(run.told()["result"])
    run.peer.send({"op": "dismiss"})
    assert run.gone()
    assert master.exited(run) == 0
    assert select.select([child], [], [], 0)[0]
    os.close(child)
    client.close()


BEGUN = """
pool = ThreadPoolExecutor(1)

def work(name):
    while not os.path.exists("go"):
        time.sleep(0.01)
    with open(name, "w") as f:
        f.write("done")

def answer(path):
    pool.submit(work, "in-the-pool")
    threading.Thread(target=work, args=("in-a-thread",), daemon=False).start()
"""


@pytest.mark.parametrize(("venv", "app"), ENGINES)
def test_what_threads_have_begun_is_finished(serve: Any, application: Path, venv: str, app: str) -> None:
    """As at the end of any program: threads that are no daemons are waited for, a pool's for all they have.

    Python makes daemons of threads begun by daemons, which those of waitress and granian are.
    """
    _, worker, client = serve(BEGUN, venv, app)
    asked(client)
    client.close()
    worker.drain()
    worker.peer.expect("draining")
    worker.peer.expect("drained")
    assert not worker.gone(0)
    (application / "go").touch()
    assert worker.gone()
    assert [(application / name).read_text() for name in ("in-the-pool", "in-a-thread")] == ["done", "done"]


IDLE = """
import anyio.to_thread

async def anyios(scope, receive, send):
    assert scope["type"] == "http"
    await anyio.to_thread.run_sync(time.sleep, 0)
    await asgi(scope, receive, send)

def answer(path):
    return [[thread.name, thread.daemon] for thread in threading.enumerate()]
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_threads_that_wait_for_work_hold_nothing_up(serve: Any, loop: str) -> None:
    """anyio's, where Starlette runs what is not async, are no daemons; told to end with the loop, they do."""
    _, worker, client = serve(IDLE, "uvicorn-newest", "anyios", http={"loop": loop})
    assert ["AnyIO worker thread", False] in asked(client)
    client.close()
    worker.drain()
    worker.drained()


ENDLESS = """
import asyncio, threading

async def app(scope, receive, send):
    threading.Thread(target=threading.Event().wait).start()
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.%s", "message": "no database"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("constants", ["channel.ORPHAN_TIMEOUT = 0.2"], ids=["soon"])
@pytest.mark.parametrize("came", ["failed", "complete"])
def test_a_thread_without_an_end(start: Any, application: Path, slots: Any, came: str) -> None:
    """It holds up neither the end of a start that failed, nor that of a worker nobody wants any more."""
    (application / "hello.py").open("a").write("\n" + ENDLESS % came)
    master = start()
    master.up()
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    if came == "failed":
        assert "no database" in worker.peer.expect("failed")["reason"]
    else:
        worker.peer.expect("ready")
        worker.drain()
        worker.peer.expect("draining")
        worker.peer.expect("drained")
        worker.peer.wire.sock.shutdown(socket.SHUT_RDWR)
    assert master.exited(worker) == (256 if came == "failed" else 0)


BACKGROUND = """
async def background():
    stop = threading.Event()
    try:
        await asyncio.to_thread(stop.wait)
    finally:
        stop.set()

tasks = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        tasks.append(asyncio.create_task(background()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await asgi(scope, receive, send)

def answer(path):
    return None
"""


@pytest.mark.parametrize("venv", ["uvicorn-newest", "uvicorn-newest-plain", "granian-newest"])
def test_a_task_that_nobody_cancelled_is(serve: Any, venv: str) -> None:
    """As asyncio.run() does at its end, for which programs are written: the thread that it waits for ends by that."""
    _, worker, client = serve(BACKGROUND, venv, "app")
    assert asked(client) is None
    client.close()
    worker.drain()
    worker.drained()


OUTLASTS = """
import atexit

def answer(path):
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    atexit.register(lambda: open("left", "w").write("by its handlers"))
    open("made.csv", "a").write("a line")
    return None
"""


@pytest.mark.parametrize(("venv", "app"), ENGINES)
def test_a_thread_that_outlasts_the_drain(serve: Any, application: Path, venv: str, app: str) -> None:
    """When its time is up the worker is not held any longer, and exit handlers run all the same: before the master
    kills it."""
    master, worker, client = serve(OUTLASTS, venv, app)
    assert asked(client) is None
    client.close()
    worker.drain(timeout=0.5)
    worker.drained()
    assert master.exited(worker) == 0 and (application / "left").read_text() == "by its handlers"


FILES = """
import gzip

imported = open("imported.csv", "a")
imported.write("once\\n")
binary = open("binary", "ab")
with gzip.open("words.gz", "wt") as closed:  # its fileno() raises an AttributeError from now on
    closed.write("words")
made = []

def answer(path):
    if not made:
        made.append(open("made.csv", "a"))
    made[0].write("a line\\n")
    imported.write("a line\\n")
    binary.write(b"a line\\n")
"""


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_what_was_not_flushed_is_kept(start: Any, application: Path, slots: Any, preload: str) -> None:
    """Files that are open are written at the end, also those of the import, and what was written there only once."""
    (application / "begins.py").write_text(BOTH + FILES)
    master = start()
    master.up(app="begins:asgi", preload=preload)
    for slot in (*slots(1), *slots(1)):
        worker = master.serving([slot])
        client = Client(slot.getsockname())
        asked(client)
        client.close()
        worker.drain()
        worker.drained()
        assert master.exited(worker) == 0
    lines = (application / "imported.csv").read_text().split("\n")
    assert sorted(lines) == ["", *["a line"] * 2, *["once"] * (1 if preload == "auto" else 2)]
    assert (application / "made.csv").read_text() == "a line\n" * 2
    assert (application / "binary").read_text() == "a line\n" * 2
