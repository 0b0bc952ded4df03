"""No more processes, descriptors, memory or program: each is told in words, costs nobody else, and heals by itself."""

from __future__ import annotations

import os
import resource
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground
from tests.run.limits import cgroup, limit

GREEDY = """
ballast = []
serve = app


async def app(scope, receive, send):
    while scope["type"] == "http" and scope["path"] == "/greedy":
        ballast.append(os.urandom(1 << 16) * 160)
    await serve(scope, receive, send)
"""


class Troubled(Foreground):
    more = ""
    python = ""

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text().replace("[reload]", '[restart]\nmax-delay = "300ms"\n[reload]')
        if self.python:
            text = text.replace(f'python = "{sys.executable}"', f'python = "{self.python}"')
        file.write_text(text)
        return file

    def confined(self, group: Path) -> Troubled:
        """Started inside `group`."""
        shell = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        command = [*CLUSTERD, "run", str(self.configure()), "--runtime", str(self.runtime)]
        self.start(["/bin/sh", "-c", shell, "sh", *command])
        return self

    def told(self, words: str) -> None:
        """The state is degraded, and status and journal have the reason."""
        self.wait_for(words, lambda: words in (self.status()["problem"] or "") and words in self.said())
        assert self.status()["state"] == "degraded"

    def healed(self) -> None:
        self.wait_for("it to heal", lambda: self.status()["state"] == "serving" and self.at_rest())
        assert self.status()["problem"] is None

    def lose(self, slot: int) -> dict[int, int]:
        """Kill the worker of `slot`; those that remain."""
        pids = self.pids()
        os.kill(pids.pop(slot), signal.SIGKILL)
        return pids


@pytest.fixture
def run() -> Iterator[Troubled]:
    with Troubled(workers=2) as made:
        yield made


def test_no_more_processes() -> None:
    """A limit of processes is reached: no worker can be forked, and it says which limits there are; the other serves.
    With the limit raised, a successor comes without a command."""
    with cgroup("pids") as group, Troubled(workers=2) as run:
        run.confined(group)
        run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
        limit(group, pids_max=str(int((group / "pids.current").read_text()) - 1))
        rest = run.lose(0)
        run.told("(limits: TasksMax=, LimitNPROC=, memory)")
        assert run.pids() == rest
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/", timeout=HANG) as answer:
            assert answer.read() == b"hello"
        limit(group, pids_max="max")
        run.healed()
        assert run.pids()[1] == rest[1]


def test_no_more_descriptors_in_the_zygote(run: Troubled) -> None:
    """A zygote that can open nothing more is told, and replaced; who serves is not touched, and a successor comes."""
    run.start()
    generation = run.status()["generations"][0]
    zygote = generation["zygote"]
    many = len(os.listdir(f"/proc/{zygote}/fd"))
    hard = resource.prlimit(zygote, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (many, hard))
    rest = run.lose(0)
    run.wait_for("the zygote to be given up", lambda: run.status()["generations"][0]["zygote"] not in (None, zygote))
    run.healed()
    assert run.pids()[1] == rest[1] and "the zygote" in run.said()


def interpreter(path: str) -> None:
    """Ours, in another place."""
    Path(path).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    os.chmod(path, 0o755)


def test_the_interpreter_is_gone(run: Troubled) -> None:
    """Workers come from memory as ever. When zygote and twin are dead too, the reason names the interpreter; it is
    tried again until that is back, and who serves serves."""
    run.python = str(run.directory / "python")
    interpreter(run.python)
    run.start()
    run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
    os.unlink(run.python)
    old = run.pids()[0]
    run.lose(0)
    run.wait_for("its successor", lambda: run.at_rest(gone=old))
    generation = run.status()["generations"][0]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for kind in ("twin", "zygote"):
            os.kill(generation[kind], number)
    run.wait_for("the zygote's end", lambda: run.status()["state"] == "degraded" or run.status()["problem"])
    rest = run.lose(0)
    run.told(run.python)
    assert run.pids() == rest
    interpreter(run.python)
    run.healed()


def test_the_zygote_dies_amid_a_fork(run: Troubled) -> None:
    """It has been told to fork and has not: its twin takes its place and does, and who serves is not touched."""
    run.start()
    run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
    generation = run.status()["generations"][0]
    os.kill(generation["zygote"], signal.SIGSTOP)
    rest = run.lose(0)
    run.wait_for("the order", lambda: [w["pid"] for w in run.status()["workers"] if w["state"] == "starting"] == [None])
    os.kill(generation["zygote"], signal.SIGKILL)
    run.healed()
    assert run.pids()[1] == rest[1] and run.status()["generations"][0]["zygote"] == generation["twin"]
    run.wait_for("every process to be accounted for", run.accounted_for)


PROGRAM = """#!{python}
import http.server, os, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
"""
COMMAND = """\
command = ["{program}"]
directory = "{directory}"
listen = "127.0.0.1:{port}"
workers = 2
[restart]
max-delay = "300ms"
"""


@pytest.mark.parametrize("how", ["removed", "not executable", "for another machine"])
def test_the_program_is_gone(run: Troubled, how: str) -> None:
    """Of a `command`, while it runs: the reason names it and says what is wrong with it; it is tried again until it can
    be run, and who serves serves."""
    program, file = run.directory / "server", run.directory / "command.toml"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    file.write_text(COMMAND.format(program=program, directory=run.directory, port=run.port))
    run.start([*CLUSTERD, "run", str(file), "--runtime", str(run.runtime)])
    kept = run.directory / "kept"
    program.rename(kept)
    if how != "removed":
        program.write_bytes(b"\x7fELF\x00" if how == "for another machine" else kept.read_bytes())
        program.chmod(0o755 if how == "for another machine" else 0o644)
    rest = run.lose(0)
    run.told(str(program))
    why = {
        "removed": "does not exist",
        "not executable": "is not executable: chmod +x",
        "for another machine": "Exec format error",
    }
    assert why[how] in run.said()
    assert run.pids() == rest
    kept.rename(program)
    run.healed()


def test_the_disk_is_full_for_the_log(run: Troubled) -> None:
    """Nothing that is printed can be written: not by the application, not by the master. Workers are followed, and a
    reload is done, as ever."""
    run.deploy("hello", LOUD)
    command = [*CLUSTERD, "run", str(run.configure()), "--runtime", str(run.runtime)]
    run.start(["/bin/sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *command])
    old = run.pids()[0]
    os.kill(old, signal.SIGKILL)
    run.wait_for("its successor", lambda: run.at_rest(gone=old))
    assert run.clusterd("reload").returncode == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/", timeout=HANG) as answer:
        assert answer.read() == b"hello"
    assert run.status()["generation"] == 2 and run.status()["master"]["starts"] == 1


LOUD = """
import os

for descriptor in (1, 2):
    try:
        os.write(descriptor, b"somebody reads this")
    except OSError:
        pass
    else:
        raise RuntimeError("the disk is not full")
"""


def test_out_of_memory() -> None:
    """The kernel ends a worker for want of memory: it is told as what it is, as far as that can be known; the other
    lives, and the next one comes."""
    with cgroup("memory") as group, Troubled(workers=2) as run:
        run.deploy("hello", GREEDY)
        run.confined(group)
        before = set(run.pids().values())
        limit(group, memory_max=str(400 << 20))
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{run.port}/greedy", timeout=HANG).read()
        run.wait_for("it to be told", lambda: "killed by SIGKILL (out of memory" in run.said())
        run.healed()
        assert len(before & set(run.pids().values())) == 1
