"""A zygote with tasks: what it refuses, and what a run says over its channel."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from harness import Master, signal_pidfd

MORE = """

import sys, time

def fine(): return {"n": 1}
def wants(what): ...
class Asked:
    def __call__(self): return "called"
asked = Asked()
def unfit(): return {1}
def large(): return "x" * (17 << 20)
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
    said, _ = run(master, "fails")
    assert said["reason"].startswith("KeyError: 'nothing' (hello.py:") and "in fails" in said["traceback"]
    assert "worker/runs.py" not in said["traceback"]


def test_spawned(start: Any, application: Path) -> None:
    """Where the application cannot be forked a run imports it for itself."""
    with (application / "hello.py").open("a") as f:
        f.write("import threading\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n")
    master = start()
    assert master.up(tasks={"fine": "hello:fine"})["mode"] == "spawn"
    assert run(master, "fine", "users")[0] == {"event": "done", "result": {"n": 1}}


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
