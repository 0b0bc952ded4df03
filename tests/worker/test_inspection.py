"""Fork or spawn: what the imported application has begun decides, and is named."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from harness import Client, Master

HELLO = "from hello import app\n"


def check(start, application: Path, slots, source: str, mode: str, **boot) -> list[str]:
    """Boot `source`, expect `mode`, have two workers serve; the reasons."""
    (application / "begun.py").write_text(HELLO + source)
    master = start()
    up = master.up(app="begun:app", **boot)
    assert up["mode"] == mode, up
    assert up["pid"] == master.process.pid
    pids = set()
    for slot in (*slots(1), *slots(1)):  # an address each, so that it is known who answers
        worker = master.serving([slot])
        client = Client(slot.getsockname())
        assert client.get("/pid")[2] == f"{worker.pid}\n"
        client.close()
        pids.add(worker.pid)
        worker.drain()
        worker.drained()
        assert master.exited(worker) == 0
    assert len(pids) == 2
    why: list[str] = up["why"]
    return why


THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"


def test_a_thread(start, application, slots):
    """A thread would be missing in a fork, and with it whatever lock it holds."""
    assert check(start, application, slots, THREAD, "spawn") == ["thread 'poller'"]


def test_a_connected_socket(start, application, slots):
    """Workers must not write into one another's database connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket\nsock = socket.create_connection(('127.0.0.1', {port}))\n"
        assert check(start, application, slots, source, "spawn") == [f"connected to 127.0.0.1:{port} at import"]


def test_a_unix_socket(start, application, slots, tmp_path):
    """The same by path."""
    path = str(tmp_path / "db")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        source = f"import socket\nsock = socket.socket(socket.AF_UNIX)\nsock.connect({path!r})\n"
        assert check(start, application, slots, source, "spawn") == [f"connected to {path} at import"]


def test_an_open_sqlite_database(start, application, slots):
    """SQLite forbids to carry an open database across a fork."""
    source = "import sqlite3\ndb = sqlite3.connect('shop.db')\ndb.execute('create table if not exists t (x)')\n"
    assert check(start, application, slots, source, "spawn") == [f"SQLite database '{application}/shop.db' open"]


def test_an_event_loop(start, application, slots):
    """An epoll descriptor is shared by a fork, and with it every registration."""
    assert "an event loop (epoll)" in check(start, application, slots, "import select\ne = select.epoll()\n", "spawn")


PROCESS = """
import json, multiprocessing, signal
process = multiprocessing.get_context("fork").Process(target=signal.pause, name="poller", daemon=True)
process.start()

without = app

async def app(scope, receive, send):
    if scope.get("path") != "/process":
        return await without(scope, receive, send)
    import hello
    await hello.respond(send, 200, str(process.pid))
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def after_a_worker(master: Master, slots) -> int:
    """The child process of the import that a worker knows, which runs, when the worker has left."""
    (slot,) = slots(1)
    worker = master.serving([slot])
    client = Client(slot.getsockname())
    pid = int(client.get("/process")[2])
    client.close()
    assert running(pid)
    worker.drain()
    worker.drained()
    return pid


def test_a_child_process(start, application, slots):
    """A worker can neither wait for another's child nor end it: each begins its own, and the zygote's is ended."""
    assert check(start, application, slots, PROCESS, "spawn") == ["child process 'poller'"]
    master = start()
    master.up(app="begun:app")
    assert Path(f"/proc/{master.process.pid}/task/{master.process.pid}/children").read_text() == ""
    assert not running(after_a_worker(master, slots))


def test_processes_that_are_over_or_shared_do_not_count(start, application, slots):
    """One that has ended, and the one that multiprocessing has for shared memory."""
    source = (
        "import subprocess, os\nended = subprocess.Popen(['true'])\n"
        "os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)\n"
        "from multiprocessing import resource_tracker\nresource_tracker.ensure_running()\n"
    )
    assert check(start, application, slots, source, "fork") == []


def test_what_the_import_made_outlives_a_worker(start, application, slots, tmp_path):
    """Temporary directories, and processes where forking is forced: the next worker has them too."""
    source = PROCESS + "import tempfile\ntemporary = tempfile.TemporaryDirectory(prefix='of-the-import-')\n"
    (application / "begun.py").write_text(HELLO + source)
    master = start(env={"TMPDIR": str(tmp_path)})
    assert master.up(app="begun:app", preload="force")["mode"] == "fork"
    pid = after_a_worker(master, slots)
    assert running(pid)
    os.kill(pid, signal.SIGKILL)
    assert list(tmp_path.glob("of-the-import-*"))


def test_what_is_closed_again_does_not_count(start, application, slots):
    """Only what is open after the import matters; datagram sockets (syslog) and listeners do not."""
    source = (
        "import socket, asyncio, sqlite3\nasyncio.run(asyncio.sleep(0))\n"
        "d = socket.socket(type=socket.SOCK_DGRAM)\nd.connect(('127.0.0.1', 9))\n"
        "db = sqlite3.connect(':memory:')\nl = socket.create_server(('127.0.0.1', 0))\n"
    )
    assert check(start, application, slots, source, "fork") == []


def test_numpy_does_not_prevent_a_fork(start, application, slots):
    """Its threads bring fork handlers; each worker gets random numbers of its own."""
    pytest.importorskip("numpy")
    source = (
        "import numpy, hello\nm = numpy.random.rand(200, 200) @ numpy.random.rand(200, 200)\n"
        "async def app(scope, receive, send):\n"
        "    if scope.get('path') != '/random': return await hello.app(scope, receive, send)\n"
        "    (m @ m).sum()\n"
        "    await hello.respond(send, 200, str(numpy.random.rand()))\n"
    )
    assert check(start, application, slots, source, "fork") == []
    master = start()
    master.up(app="begun:app")
    answers = set()
    for slot in (*slots(1), *slots(1), *slots(1)):
        master.serving([slot])
        client = Client(slot.getsockname())
        answers.add(client.get("/random")[2])
        client.close()
    assert len(answers) == 3


def test_preload_force_and_never(start, application, slots):
    """`preload` overrides: force forks although there is a reason, never spawns although there is none."""
    assert check(start, application, slots, THREAD, "fork", preload="force") == ["thread 'poller'"]
    assert check(start, application, slots, "", "spawn", preload="never") == ["preload = false"]


def test_spawned_workers_fail_with_the_reason(start, application, slots):
    """A spawned worker imports for itself, and says what a zygote would say."""
    (application / "begun.py").write_text(HELLO)
    master = start()
    master.up(app="begun:app", preload="never")
    (application / "begun.py").write_text("1 / 0\n")
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    failed = worker.peer.expect("failed")
    assert failed["reason"] == "importing 'begun' failed: ZeroDivisionError: division by zero (begun.py:1)"
    assert master.exited(worker) == 1 << 8


def test_the_zygote_of_spawned_workers_is_free_of_the_application(start, application, slots):
    """It has left the application behind by exec: the thread it began is not alive in it, nor is its twin's."""
    (application / "begun.py").write_text(HELLO + THREAD)
    master = start()
    master.up(app="begun:app")
    assert len(list(Path(f"/proc/{master.process.pid}/task").iterdir())) == 1
    _, pid, _ = master.twin()
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
