"""A zygote with tasks: what it refuses, and what a run says over its channel."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Master, Peer, signal_pidfd

from clusterd.worker.frames import Frames, decode

MORE = """

import sys, time

def fine(): return {"n": 1}
def wants(what): ...
class Asked:
    def __call__(self): return "called"
asked = Asked()
def unfit(): return {1}
def large(): return "x" * (17 << 20)
def foreign(): return "ж" * (4 << 20)
def half(): raise ValueError("\\udcff")
def leaves(): sys.exit(0)
def fails(): raise KeyError("nothing")
async def slow():
    import asyncio
    try:
        open("begun", "w").close()
        await asyncio.sleep(60)
    finally:
        print("cleaned")
"""


@pytest.fixture(autouse=True)
def more(application: Path) -> None:
    with (application / "hello.py").open("a") as f:
        f.write(MORE)
    os.mkfifo(application / "begun")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("hello:fien", "'hello' has no attribute 'fien' (did you mean 'fine'?)"),
        ("hello:MORE", "'hello' has no attribute 'MORE'"),
        ("hello:GREETING", "str found, expected a function"),
        ("hello:wants", "'hello:wants' wants arguments, and a task is called without any"),
        ("gone:fine", "no module 'gone'"),
    ],
)
def test_a_function_that_is_not_there(start: Any, call: str, told: str) -> None:
    """The boot fails, with file, key and what is wrong."""
    failed = start().boot(tasks={"fine": "hello:fine", "users": call}, file="/etc/clusterd/hello.toml")
    assert failed["event"] == "failed"
    assert failed["reason"].startswith(f'/etc/clusterd/hello.toml: task.users.call = "{call}": {told}')


def heard(sock: socket.socket) -> dict[str, Any]:
    """The next word of a run. The NUL before it is for a master that has missed its beginning."""
    data = b""
    while True:
        data += sock.recv(1 << 20)
        *whole, data = data.split(b"\0")
        for found in [json.loads(frame) for frame in whole if frame]:
            if found["event"] != "awaits":  # its import, where it imports for itself
                assert not data
                said: dict[str, Any] = found
                return said


def run(master: Master, name: str, publish: str | None = None) -> tuple[dict[str, Any], str]:
    """What a run of hello:NAME says, asked twice as by a new master; and what it printed."""
    worker = master.fork([], task={"name": name, "call": f"hello:{name}", "publish": publish})
    worker.peer.send({"op": "go"})
    sock = worker.peer.wire.sock
    sock.settimeout(30)
    if name == "slow":
        (master.directory / "begun").open().close()
        worker.peer.send({"op": "state"})  # nothing yet
        signal_pidfd(worker.pidfd, signal.SIGTERM)
    said = heard(sock)
    worker.peer.send({"op": "state"})
    assert heard(sock) == said
    worker.peer.send({"op": "dismiss"})
    assert worker.gone()
    assert os.waitstatus_to_exitcode(master.exited(worker)) == (0 if said["event"] == "done" else 1)
    return said, worker.output()


def test_results(start: Any) -> None:
    """What a function returns, raises, or calls exit with is said until it is written down; only then the run ends."""
    master = start()
    master.up(tasks={"fine": "hello:fine"})
    assert run(master, "fine", "users")[0] == {"event": "done", "result": {"n": 1}}
    assert run(master, "asked")[0] == {"event": "done", "result": "called"}
    assert run(master, "leaves")[0] == {"event": "done", "result": None}
    assert run(master, "unfit")[0] == {"event": "done", "result": "{1}"}
    said, _ = run(master, "unfit", "users")
    told = "what task 'unfit' returned cannot be published: found set, expected what JSON has"
    assert said["event"] == "failed" and said["reason"].startswith(told)
    said, _ = run(master, "large", "users")
    assert "bytes of JSON, expected at most" in said["reason"]
    said, _ = run(master, "half")
    assert said["reason"].startswith("ValueError: \udcff (hello.py:")
    said, _ = run(master, "fails")
    assert said["reason"].startswith("KeyError: 'nothing' (hello.py:") and "in fails" in said["traceback"]
    assert "worker/runs.py" not in said["traceback"]


def test_a_long_result(start: Any) -> None:
    """What is within the bound in UTF-8 is so on its way to the master: it is not escaped."""
    master = start()
    master.up(tasks={"foreign": "hello:foreign"})
    worker = master.fork([], task={"name": "foreign", "call": "hello:foreign", "publish": "users"})
    worker.peer.send({"op": "go"})
    frames, found = Frames(), list[bytes]()  # as the master reads it, bound included
    while not found:
        found = frames.feed(worker.peer.wire.sock.recv(1 << 16))
    assert decode(found[0]) == {"event": "done", "result": "ж" * (4 << 20)}


def test_spawned(start: Any, application: Path) -> None:
    """Where the application cannot be forked a run imports it for itself."""
    with (application / "hello.py").open("a") as f:
        f.write("import threading\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n")
    master = start()
    assert master.up(tasks={"fine": "hello:fine"})["mode"] == "spawn"
    assert run(master, "fine", "users")[0] == {"event": "done", "result": {"n": 1}}


HEARS = """
from clusterd import worker

@worker.on("where")
async def where(message):
    import threading
    return [threading.current_thread() is threading.main_thread(), "imported" in globals()]

def says():
    worker.sync.broadcast("said", imported)

imported = True
"""


@pytest.fixture
def bus() -> Iterator[tuple[Peer, socket.socket]]:
    """A bus that has a request for its worker: our end, and the worker's."""
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    peer.send({"event": "current", "version": 0})
    peer.send({"from": 16, "op": "request", "topic": "where", "data": None, "number": 1})
    yield peer, theirs
    peer.close()
    theirs.close()


def test_a_spawned_run_hears_nothing(start: Any, application: Path, bus: tuple[Peer, socket.socket]) -> None:
    """Its import registers handlers, as each worker's does, and the run forgets them before it has a bus; it speaks."""
    with (application / "hello.py").open("a") as f:
        f.write(HEARS)
    master, (ours, theirs) = start(), bus
    assert master.up(tasks={"says": "hello:says"}, preload="never")["mode"] == "spawn"
    worker = master.fork([], bus=theirs, task={"name": "says", "call": "hello:says", "publish": None})
    worker.peer.send({"op": "go"})
    assert ours.next()[0] == {"op": "values"}
    refused = "the worker has no handler for 'where'"
    said = [ours.next()[0] for _ in range(2)]
    assert {"op": "answer", "to": 16, "number": 1, "unheard": True, "error": refused} in said
    assert {"op": "broadcast", "topic": "said", "data": True} in said
    worker.peer.send({"op": "dismiss"})
    assert worker.gone()


@pytest.fixture
def spawned(start: Any, application: Path, slots: Any, bus: tuple[Peer, socket.socket]) -> Callable[[str], Peer]:
    """spawned(code) -> our end of the bus of a worker that imports hello.py, with `code` below it, for itself."""

    def spawned(code: str) -> Peer:
        with (application / "hello.py").open("a") as f:
            f.write(code)
        master, (ours, theirs) = start(), bus
        assert master.up(preload="never")["mode"] == "spawn"
        worker = master.fork(slots(1), bus=theirs)
        worker.go()
        return ours

    return spawned


def test_a_spawned_worker_hears_when_it_is_whole(spawned: Callable[[str], Peer]) -> None:
    """Not while its application is half imported, and an async handler on the application's loop."""
    ours = spawned(HEARS)
    assert ours.next()[0] == {"op": "on", "topic": "where"}
    assert ours.next()[0] == {"op": "values"}
    assert ours.next()[0] == {"op": "answer", "to": 16, "number": 1, "data": [True, True]}


BEGINS = """
import threading
from clusterd import worker

looked = threading.Event()

def says():
    whole = __name__ in sys.modules and "imported" in globals()
    looked.set()
    worker.sync.broadcast("said", whole)

thread = threading.Thread(target=says, daemon=True)
thread.start()
looked.wait()
thread.join(0.2)
imported = True
"""


def test_a_thread_of_the_import_says_it_later(spawned: Callable[[str], Peer]) -> None:
    """One that the import begins, in a worker that imports for itself: what it says waits until that is over."""
    ours = spawned(BEGINS)
    said = [ours.next()[0] for _ in range(3)]
    assert {"op": "broadcast", "topic": "said", "data": False} in said


OUTLASTS = """
import atexit, threading

def leaves_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    atexit.register(lambda: open("left", "w").write("by its handlers"))
"""


@pytest.mark.parametrize("constants", ["from clusterd.worker import child; child.LAST_WORDS = 0.2"], ids=["soon"])
def test_a_thread_that_outlasts_its_run(start: Any, application: Path) -> None:
    """A run is not held by it for ever, also where no master is left to kill it; exit handlers run all the same."""
    with (application / "hello.py").open("a") as f:
        f.write(OUTLASTS)
    master = start()
    master.up(tasks={"leaves": "hello:leaves_a_thread"})
    worker = master.fork([], task={"name": "leaves", "call": "hello:leaves_a_thread", "publish": None})
    worker.peer.send({"op": "go"})
    assert heard(worker.peer.wire.sock)["event"] == "done"
    worker.peer.wire.sock.shutdown(socket.SHUT_RDWR)
    assert worker.gone() and (application / "left").read_text() == "by its handlers"


def test_sigterm(start: Any) -> None:
    """`finally` has its turn, in a coroutine too."""
    master = start()
    master.up(tasks={"slow": "hello:slow"})
    said, printed = run(master, "slow")
    assert said == {"event": "failed", "reason": "it was told to end", "traceback": ""}
    assert "cleaned" in printed


def test_nobody_wants_it(start: Any) -> None:
    """A run whose master and keeper are gone ends by itself."""
    master = start()
    master.up(tasks={"slow": "hello:slow"})
    worker = master.fork([], task={"name": "slow", "call": "hello:slow", "publish": None})
    worker.peer.send({"op": "go"})
    (master.directory / "begun").open().close()
    worker.peer.wire.sock.shutdown(socket.SHUT_RDWR)
    assert worker.gone()
