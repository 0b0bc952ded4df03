"""As PID 1 of a container `clusterd run` reaps what is orphaned, heeds signals, and its exit status says why."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import asking
from tests.lacking import lacking
from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground, gone, unread, zombies
from tests.run.namespaces import PidOne
from tests.systemd.harness import cgroups

MORE = """
import os, sys

whole = app


async def app(scope, receive, send):
    path = scope.get("path", "")
    if path == "/orphan":  # a daemon of the old school: the grandchild is nobody's, and dies
        if os.fork() == 0:
            if os.fork() == 0:
                print("orphan says hello", flush=False)
                sys.stdout.flush()
            os._exit(0)
        os.wait()
    if path == "/hold":
        await asyncio.sleep(3600)
    await whole(scope, receive, send)


print("imported", os.getpid(), file=sys.stdout)
"""


@pytest.fixture
def run() -> Iterator[PidOne]:
    with PidOne() as made:
        made.deploy("hello", MORE)
        yield made


def ask(run: Foreground, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", run.port), timeout=HANG)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def test_orphans_are_reaped(run: PidOne) -> None:
    """What an application leaves behind as a daemon does not stay as a zombie, and what it printed is in the output."""
    run.start()
    assert run.status()["master"]["pid"] < 100  # as it is numbered in there
    for _ in range(20):
        with ask(run, "/orphan") as client:
            assert client.recv(12) == b"HTTP/1.1 200"
    run.wait_for("every orphan's line", lambda: run.said().count("orphan says hello") == 20)
    run.wait_for("the dead to be reaped", lambda: zombies(*run.everything()) == [])
    assert "imported" in run.said() and "clusterd: " in run.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop(run: PidOne, number: signal.Signals) -> None:
    """The signal that an engine stops a container with: what is in flight is answered, and the exit status is 0."""
    run.stop = "60s"
    run.start()
    everything = run.everything()
    with ask(run, "/slow") as client:
        run.wait_for("the request to be read", lambda: unread(run.port) == 0)
        run.signal(number)
        assert client.recv(12) == b"HTTP/1.1 200"
    assert run.wait() == 0
    assert gone(everything) == []


def test_stop_asked_again(run: PidOne) -> None:
    """A second SIGTERM ends the drain: what is in flight is cut, and the exit status is still 0."""
    file = run.configure()
    file.write_text(file.read_text().replace('[stop]\ndrain-timeout = "2s"', '[stop]\ndrain-timeout = "1h"'))
    run.configure = lambda: file  # type: ignore[method-assign]
    run.start()
    with ask(run, "/hold") as client:
        run.wait_for("the request to be read", lambda: unread(run.port) == 0)
        run.signal(signal.SIGTERM)
        run.wait_for("it to drain", lambda: "workers drain" in run.said())
        assert run.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(0.6)  # what comes within half a second counts as the same wish
        run.signal(signal.SIGTERM)
        assert run.wait() == 0
        assert client.recv(12) == b""
    assert "what is in flight is cut off" in run.said()


def test_reload(run: PidOne) -> None:
    """SIGHUP replaces the workers by the code now on disk, and nothing is lost; so does SIGUSR2."""
    run.start()
    with asking(("127.0.0.1", run.port)) as asked:
        for generation, number in ((2, signal.SIGHUP), (3, signal.SIGUSR2)):
            run.deploy(f"release {generation}")
            run.signal(number)
            run.wait_for("the new code", lambda g=generation: run.status()["generation"] == g and run.at_rest())
            run.wait_for("an answer of it", lambda g=generation: asked.answers[f"release {g}"])
    asked.assert_nothing_lost()


def test_master_killed(run: PidOne) -> None:
    """The master dies, and PID 1 starts another: nothing lost, the same workers."""
    run.start()
    before = run.pids()
    master = next(pid for pid in run.everything() if b"--process" in Path(f"/proc/{pid}/cmdline").read_bytes())
    with asking(("127.0.0.1", run.port)) as asked:
        os.kill(master, signal.SIGKILL)
        run.wait_for("another master", lambda: run.status()["master"].get("starts") == 2)
    asked.assert_nothing_lost()
    assert run.pids() == before


def test_killed_and_started_again(run: PidOne) -> None:
    """An engine that kills it and starts it again in the same files finds nothing in its way."""
    run.start()
    assert run.process is not None
    os.kill(run.init, signal.SIGKILL)
    run.process.wait(HANG)
    run.start()
    assert run.at_rest()


def test_two_in_one_directory(run: Foreground) -> None:
    """A second one does not take the control socket of the first, and names the directory."""
    run.start()
    with PidOne() as other:
        other.runtime = run.runtime
        other.start(wait=False)
        assert other.wait() == 1
        assert f"'{run.runtime}' is the --runtime of another 'clusterd run'" in other.said()
    assert run.clusterd("status").returncode == 0


def test_exit_statuses(run: PidOne) -> None:
    """1 for an application that does not start, with its traceback; 2 for a file that cannot be used."""
    run.deploy("hello", "import nowhere_to_be_found\n")
    run.start(wait=False)
    assert run.wait() == 1
    assert "nowhere_to_be_found" in run.said() and "Traceback" in run.said()
    with PidOne() as other:
        other.configure().write_text("listen = 1\n")
        file = other.directory / "app.toml"
        other.configure = lambda: file  # type: ignore[method-assign]
        other.start(wait=False)
        assert other.wait() == 2
        assert "app: found neither" in other.said() and "Traceback" not in other.said()


def test_workers_are_as_many_as_the_quota_has(run: Foreground) -> None:
    """workers = "auto" in a cgroup with the quota of one CPU is one worker, by the kernel's own files."""
    lacking(None if cgroups.writable() else "no cgroup that this process may write")
    v1 = cgroups.TOP / "cpu"
    mount = v1 if (v1 / "cpu.cfs_quota_us").exists() else cgroups.unified()
    assert mount is not None
    group = mount / f"{cgroups.PREFIX}quota-{os.getpid()}"
    if mount != v1:
        (mount / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir()
    try:
        if mount == v1:
            (group / "cpu.cfs_quota_us").write_text("100000")
        else:
            (group / "cpu.max").write_text("100000 100000")
        run.workers = '"auto"'  # type: ignore[assignment]
        command = [*CLUSTERD, "run", str(run.configure()), "--runtime", str(run.runtime)]
        script = f'echo $$ >{group}/cgroup.procs; exec "$@"'
        Foreground.start(run, ["sh", "-euc", script, "sh", *command])
        assert run.status()["wanted"] == 1
        everything = run.everything()
        assert run.process is not None
        run.process.terminate()
        assert run.wait() == 0
        assert gone(everything) == []  # who is killed last leaves the cgroup a moment later
    finally:
        group.rmdir()


def test_descriptors(run: Foreground) -> None:
    """Master and workers may have as many descriptors as under systemd, where the hard limit lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        run.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    texts = [Path(f"/proc/{pid}/limits").read_text() for pid in run.everything()[1:]]
    assert {text.partition("Max open files")[2].split()[0] for text in texts} == {str(min(65536, hard))}
