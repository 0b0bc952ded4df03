"""`command`: programs that take their sockets from systemd."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading

import pytest
from environments import ROOT
from harness import Client, signal_pidfd

from tests.lacking import lacking
from tests.patience import HANG

PRINT = (
    "import os, json; names = ('LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES', 'NOTIFY_SOCKET', 'CLUSTERD_WORKER', "
    "'CLUSTERD_SLOT', 'CLUSTERD_SLOTS', 'CLUSTERD_GENERATION', 'CLUSTERD_APP');"
    "fds = sorted(int(f) for f in os.listdir('/proc/self/fd'));"
    "print(json.dumps([os.getpid(), {n: os.environ.get(n) for n in names}, fds]))"
)


@pytest.fixture
def notify(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(HANG)
        yield path, sock


def test_what_a_program_gets(start, slots, tmp_path):
    """The variables of sd_listen_fds(3) for its own pid, the listeners from 3 on, and nothing else open."""
    master = start(env={"LISTEN_FDS": "7", "NOTIFY_SOCKET": "/run/of/the/master"})
    up = master.up(kind="command", command=[sys.executable, "-c", PRINT])
    assert (up["mode"], up["interface"]) == ("exec", "command")
    worker = master.fork(slots(2), slot=1, notify="/run/notify/1")
    worker.peer.send({"op": "go"})
    assert worker.peer.at_end()
    pid, variables, fds = json.loads(worker.output())
    assert pid == worker.pid
    assert variables == {
        "LISTEN_FDS": "2", "LISTEN_PID": str(worker.pid), "LISTEN_FDNAMES": "tcp:tcp", "NOTIFY_SOCKET": "/run/notify/1",
        "CLUSTERD_WORKER": "1", "CLUSTERD_SLOT": "1", "CLUSTERD_SLOTS": "4", "CLUSTERD_GENERATION": "3",
        "CLUSTERD_APP": "hello",
    }  # fmt: skip
    assert fds[:5] == [0, 1, 2, 3, 4] and len(fds) == 6  # the last one is listdir's own
    assert master.exited(worker) == 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([], "command is empty"),
        (["nodee-of-clusterd"], "command 'nodee-of-clusterd' not found in PATH"),
        (["./absent"], "command './absent' does not exist"),
        (["./hello.py"], "command './hello.py' is not executable: chmod +x"),
        (["/"], "command '/' is a directory"),
    ],
)
def test_a_program_that_cannot_be_run_is_refused_at_boot(start, command, reason):
    """Before any worker is made, with what was looked for and where."""
    master = start()
    answer = master.boot(kind="command", command=command)
    assert answer["event"] == "failed"
    assert answer["reason"].startswith(reason)
    assert master.process.wait(HANG) == 1


def test_exec_fails_later(start, slots, application):
    """A program that was there at boot and cannot be run any more: the reason comes on the zygote's channel."""
    program = application / "program"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    master = start()
    master.up(kind="command", command=["./program"])
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    failed = master.peer.expect("fork-failed")
    assert failed["worker"] == worker.number
    assert "interpreter its first line names does not exist" in failed["reason"]
    assert os.waitstatus_to_exitcode(master.exited(worker)) == 127


def test_signals_are_as_a_program_expects_them(start, slots):
    """Python ignores SIGPIPE; a program it becomes must not inherit that."""
    master = start()
    shell = "while read -r key value; do case $key in SigIgn:|SigBlk:) echo $value;; esac; done </proc/self/status"
    master.up(kind="command", command=["/bin/sh", "-c", shell])
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    blocked, ignored = (int(field, 16) for field in worker.output().split())
    assert blocked == 0 and ignored & ~(0b11 << 31) == 0  # 32 and 33 are glibc's own, and GNU make ignores them


@pytest.mark.parametrize("example", ["node", "socketserver"])
def test_examples_drain_in_stages(start, slots, application, notify, example):
    """READY=1 comes, requests are answered, SIGTERM drains: in flight answered, kept told to close, idle closed."""
    if example == "node" and shutil.which("node") is None:
        lacking("no node")
    command = ["node", "server.js"] if example == "node" else [sys.executable, "server.py"]
    path, ready = notify
    master = start(directory=ROOT / "examples" / example, env={"LINGER": "3", "PYTHONDONTWRITEBYTECODE": "1"})
    master.up(kind="command", command=command)
    (slot,) = slots(1)
    worker = master.fork([slot], notify=path)
    worker.peer.send({"op": "go"})
    assert b"READY=1" in ready.recv(4096)
    address = slot.getsockname()
    # Whoever is answered after another has connected is the proof that it was accepted.
    idle = Client(address)
    idle.get()
    fresh, busy = Client(address), Client(address)
    busy.ask("/sleep?seconds=5")
    kept = Client(address)
    assert kept.get("/pid")[2] == f"{worker.pid}\n"
    signal_pidfd(worker.pidfd, signal.SIGTERM)
    assert idle.ended()
    assert fresh.ended()
    status, headers, body = busy.read()
    assert (status, headers["connection"].lower(), body) == (200, "close", "slept 5 s\n")
    assert worker.gone()
    assert os.waitstatus_to_exitcode(master.exited(worker)) == 0
    for client in (busy, kept, idle, fresh):
        client.close()


TOLD_WITH_A_LOCK_HELD = """
import os, runpy, signal, sys, threading

import sdnotify

lock = getattr(threading, sys.argv[1])
held = getattr(lock, "_is_owned", None) or lock.locked


def trace(frame, event, argument):
    return look if frame.f_code.co_filename == threading.__file__ else None


def look(frame, event, argument):
    if event == "line" and held():
        sys.settrace(None)
        sdnotify.SystemdNotifier().notify("STATUS=told")
        os.kill(os.getpid(), signal.SIGTERM)
    return look


sys.settrace(trace)
runpy.run_path("server.py", run_name="__main__")
"""


@pytest.mark.parametrize("lock", ["_active_limbo_lock", "_shutdown_locks_lock"])
def test_an_example_that_is_told_to_drain_while_it_holds_a_lock(start, slots, notify, lock):
    """One that new threads need: the request it was about to serve is answered, and the program ends."""
    if not hasattr(threading, lock):
        pytest.skip(f"this interpreter has no {lock}")
    path, heard = notify
    master = start(directory=ROOT / "examples/socketserver", env={"LINGER": "120", "PYTHONDONTWRITEBYTECODE": "1"})
    master.up(kind="command", command=[sys.executable, "-c", TOLD_WITH_A_LOCK_HELD, lock])
    (slot,) = slots(1)
    worker = master.fork([slot], notify=path)
    worker.peer.send({"op": "go"})
    assert b"READY=1" in heard.recv(4096)
    heard.setblocking(False)
    for _ in range(100):  # each request is a thread of its own, and the next one sees to those that have ended
        with socket.create_connection(slot.getsockname(), HANG) as client:
            client.settimeout(HANG)
            client.sendall(b"GET /pid HTTP/1.0\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(BlockingIOError):
            assert heard.recv(4096) == b"STATUS=told"
            break
    else:
        pytest.fail(f"{lock} was never held")
    assert worker.gone()
    assert os.waitstatus_to_exitcode(master.exited(worker)) == 0
