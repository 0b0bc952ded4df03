"""Ends of a master that its own code or the kernel brings about: the workers serve on, the next one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.clients import asking
from tests.patience import HANG
from tests.run.foreground import Foreground
from tests.run.limits import cgroup, limit
from tests.run.test_upgrade import Installed, run

__all__ = ["run"]

BUG = """            case "Rollback":
                raise RuntimeError("a bug of ours")
"""
RIGHT = """            case "Rollback":
"""


def test_an_uncaught_exception(run: Installed) -> None:
    """A bug in the master's own code ends it: the traceback is told, whoever had asked is told that it died, the next
    one serves everybody else."""
    run.spoil("master/requests.py", RIGHT, BUG)
    assert run.upgrade().returncode == 0
    workers = run.pids()
    with asking(("127.0.0.1", run.port)) as asked:
        dies_of_its_bug(run)
        dies_of_its_bug(run)
        run.wait_for("it to serve", run.at_rest)
    asked.assert_nothing_lost()
    assert run.pids() == workers
    assert "exited with status 70: starting another" in run.said()


def dies_of_its_bug(run: Installed) -> None:
    old, before = run.master(), run.said().count("RuntimeError: a bug of ours")
    said = run.clusterd("rollback")
    assert said.returncode not in (0, 1), said
    run.wait_for("another master", lambda: run.master() not in (0, old))
    assert run.said().count("RuntimeError: a bug of ours") == before + 1


def test_a_reload_amid_refused_tries(run: Installed) -> None:
    """Each try is refused at once and has a receipt, a dozen of them while the reload goes on: its own is not lost for
    that, and whoever waits for it gets it, of another master too."""
    file = run.directory / "app.toml"
    file.write_text(file.read_text().replace('ready-timeout = "60s"', 'ready-timeout = "10min"'))
    (run.directory / "held").touch()
    held = 'import os, time\nwhile os.path.exists("held"):\n    time.sleep(0.01)\n'
    run.deploy("new", f"\n\n{held}")
    reload = subprocess.Popen([*run.command, "reload", run.control], stdout=subprocess.PIPE, text=True)
    run.wait_for("the reload", lambda: run.status()["rollout"])
    for _ in range(12):
        done = run.clusterd("try")
        assert done.returncode == 1 and "#2 is under way (reload)" in done.stderr
    run.kill_master()
    assert run.clusterd("try").returncode == 1
    (run.directory / "held").unlink()
    said, _ = reload.communicate(timeout=HANG)
    assert (reload.returncode, said.partition(" in ")[0]) == (0, "runtime: #2: 2/2")
    status = run.status()
    assert status["receipt"]["number"] == 2 and status["master"]["starts"] == 2
    assert [receipt["number"] for receipt in status["receipts"]] == [*range(6, 16), 2][-10:]


def test_out_of_memory() -> None:
    """The kernel ends the master for want of memory, which hurts nobody else."""
    with cgroup("memory") as group, Foreground(workers=2) as run:
        run.start()
        workers, old = run.pids(), run.status()["master"]["pid"]
        limit(group, memory_max=str(1 << 20))
        with asking(("127.0.0.1", run.port)) as asked:
            (group / "cgroup.procs").write_text(str(old))
            environment = {f"V{n}": "x" * 100_000 for n in range(9)}
            end = time.monotonic() + HANG
            while os.path.exists(f"/proc/{old}"):
                assert time.monotonic() < end
                # What it is sent it has to keep: a reload's environment.
                subprocess.run(
                    [sys.executable, "-c", RELOAD, run.control],
                    env={**os.environ, **environment},
                    capture_output=True,
                )
            run.wait_for("another master", lambda: run.status()["master"]["pid"] not in (0, old))
        asked.assert_nothing_lost()
        assert f"master {old} killed by SIGKILL: starting another" in run.said()
        run.wait_for("it to be at rest", run.at_rest)
        assert run.pids() == workers


RELOAD = """
import json, os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
given = {name: value for name, value in os.environ.items() if name[0] == "V"}
sock.sendall(json.dumps({"method": "io.clusterd.Try", "parameters": {"environment": given}}).encode() + b"\\0")
sock.recv(65536)
"""
