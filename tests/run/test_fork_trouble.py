"""No more processes, descriptors, memory or program: each is told in words, costs nobody else, and heals by itself."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground
from tests.run.limits import cgroup, limit
from tests.run.test_upgrade import Installed

GREEDY = """
ballast = []
serve = app


async def app(scope, receive, send):
    while scope["type"] == "http" and scope["path"] == "/greedy":
        ballast.append(os.urandom(1 << 16) * 160)
    await serve(scope, receive, send)
"""


class Troubled(Foreground):
    python = ""
    soak = "20ms"
    ready = "60s"
    link: Path | None = None

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text().replace("[reload]", '[restart]\nmax-delay = "300ms"\n[reload]')
        text = text.replace('soak = "20ms"', f'soak = "{self.soak}"')
        text = text.replace('ready-timeout = "60s"', f'ready-timeout = "{self.ready}"')
        if self.link is not None:
            text = text.replace(f'directory = "{self.directory}"', f'directory = "{self.link}"')
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
    run.wait_for("its death to be known", lambda: run.pids() == rest)
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


class Unhurried(Troubled, Installed):
    """Of a copy of the program that waits for whoever reaps a worker for as long as the test likes, on a kernel that
    does not tell it how others' children died, as those before 6.15."""

    def __init__(self) -> None:
        super().__init__()
        self.spoil("shell/pidfd.py", "STATUS_GRACE = 3.0", "STATUS_GRACE = 600.0")
        self.spoil("shell/pidfd.py", "        return _exit_info(fd)\n", "        return None\n")


@pytest.fixture
def unhurried() -> Iterator[Unhurried]:
    with Unhurried() as made:
        yield made


def test_nobody_says_how_it_died(unhurried: Unhurried) -> None:
    """The zygote, whose child it was, stands still. Nothing new goes to it from the moment of its death, which is told
    and made good when the zygote goes on, or dies."""
    run = unhurried
    run.start()
    zygote = run.status()["generations"][0]["zygote"]
    os.kill(zygote, signal.SIGSTOP)
    rest = run.lose(0)
    run.wait_for("the others to get what is new", lambda: run.status()["slots"]["live"] == [1])
    assert run.pids() == rest and "died" not in run.said()
    os.kill(zygote, signal.SIGCONT)
    run.healed()
    assert run.pids()[1] == rest[1] and "died: killed by SIGKILL" in run.said()


def test_a_death_that_is_told_late_is_no_soak(unhurried: Unhurried) -> None:
    """A new worker dies while the new generation soaks, and its zygote stands still: the reload waits for what it died
    of, and is refused, however soon it would have been over."""
    run = unhurried
    run.soak = "15s"
    run.start()
    before = run.pids()
    reload = subprocess.Popen(
        [*CLUSTERD, "reload", run.control], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run.wait_for("the soak", lambda: (run.status()["rollout"] or {}).get("phase") == "soaking")
    status = run.status()
    (zygote,) = (g["zygote"] for g in status["generations"] if g["generation"] == 2)
    os.kill(zygote, signal.SIGSTOP)
    os.kill(next(w["pid"] for w in status["workers"] if w["generation"] == 2), signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        reload.wait(16.0)
    os.kill(zygote, signal.SIGCONT)
    _, said = reload.communicate(timeout=HANG)
    assert reload.returncode == 1 and "killed by SIGKILL" in said, said
    assert run.pids() == before


def test_the_keeper_says_how_it_died(unhurried: Unhurried) -> None:
    """A worker whose zygote had died before is the keeper's to reap, and no master lives when it dies: the next one,
    which finds nothing but its descriptor, knows and replaces it at once."""
    run = unhurried
    run.start()
    run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
    generation, master, pids = run.status()["generations"][0], run.status()["master"]["pid"], run.pids()
    os.kill(generation["zygote"], signal.SIGKILL)
    run.wait_for("the twin", lambda: run.status()["generations"][0]["zygote"] == generation["twin"])
    assert run.process is not None
    run.process.send_signal(signal.SIGSTOP)
    os.kill(master, signal.SIGKILL)
    os.kill(pids[0], signal.SIGKILL)
    run.process.send_signal(signal.SIGCONT)
    run.wait_for("its successor", lambda: run.at_rest(gone=pids[0]))
    assert "died: killed by SIGKILL" in run.said()


def test_the_keeper_says_how_a_zygote_died(unhurried: Unhurried) -> None:
    """A twin that took its zygote's place is the keeper's to reap, which stands still: until it says how it died,
    nobody is asked to fork, which is no failure of whoever waits for it, and then the next twin is."""
    run = unhurried
    run.start()
    run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
    os.kill(run.status()["generations"][0]["zygote"], signal.SIGKILL)
    run.wait_for("the next twin", lambda: "takes over" in run.said() and run.status()["generations"][0]["twin"])
    zygote, twin = (run.status()["generations"][0][kind] for kind in ("zygote", "twin"))
    assert run.process is not None
    run.process.send_signal(signal.SIGSTOP)
    os.kill(zygote, signal.SIGKILL)
    scale = subprocess.Popen([*CLUSTERD, "scale", run.control, "3"], stdout=subprocess.DEVNULL)
    run.wait_for("the third to be ordered", lambda: len(run.status()["workers"]) == 3)
    assert run.said().count("the zygote ended") == 1
    run.process.send_signal(signal.SIGCONT)
    run.workers = 3
    run.healed()
    assert scale.wait(HANG) == 0 and run.status()["generations"][0]["zygote"] == twin
    assert run.said().count("the zygote ended: killed by SIGKILL; its twin takes over") == 2
    assert "unknown" not in run.said() and "its zygote died" not in run.said()


def test_a_zygote_that_hangs(run: Troubled) -> None:
    """It does not fork within the time that a start may take: it is killed, and its twin does."""
    run.ready = "30s"
    run.start()
    run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
    generation = run.status()["generations"][0]
    os.kill(generation["zygote"], signal.SIGSTOP)
    old = run.pids()[0]
    rest = run.lose(0)
    run.wait_for("its successor", lambda: run.at_rest(gone=old))
    assert "not ready within 30 s: its zygote did not fork it in that time, and is replaced" in run.said()
    assert "the zygote did not fork when it was told to: killed; its twin takes over" in run.said()
    assert run.pids()[1] == rest[1] and run.status()["generations"][0]["zygote"] == generation["twin"]


def test_it_boots_again_from_where_it_was(run: Troubled) -> None:
    """The link to the release leads elsewhere by now, without a reload: what serves is what had been checked."""
    releases = run.directory.parent / f"{run.directory.name}-releases"
    try:
        for name in ("one", "two"):
            run.deploy(name)
            (releases / name).mkdir(parents=True)
            (releases / name / "hello.py").write_text((run.directory / "hello.py").read_text())
        run.link = run.directory / "current"
        run.link.symlink_to(releases / "one")
        run.start()
        run.wait_for("its twin", lambda: run.status()["generations"][0]["twin"])
        (run.directory / "next").symlink_to(releases / "two")
        (run.directory / "next").rename(run.link)
        generation = run.status()["generations"][0]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for kind in ("twin", "zygote"):
                os.kill(generation[kind], number)
        old = run.pids().values()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        run.wait_for("their successors", lambda: not set(old) & set(run.pids().values()) and run.at_rest())
        assert run.status()["generations"][0]["directory"] == str(releases / "one")
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/", timeout=HANG) as answer:
            assert answer.read() == b"one"
        assert run.clusterd("reload").returncode == 0
        assert run.status()["generations"][-1]["directory"] == str(releases / "two")
    finally:
        shutil.rmtree(releases)


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
