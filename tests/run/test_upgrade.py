"""A master that makes room for one of the files now on disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.clients import asking
from tests.patience import HANG
from tests.run.foreground import SERVICE, Foreground, gone, unread
from tests.run.test_board import ask
from tests.run.test_random import held, no_more, settled


class Installed(Foreground):
    """Run from a copy of the program, which can be replaced."""

    def __init__(self, workers: int = 2) -> None:
        super().__init__(workers)
        self.installed = self.directory / "installed"
        shutil.copytree(SERVICE, self.installed, ignore=shutil.ignore_patterns("__pycache__"))
        self.command = [sys.executable, "-I", "-B", str(self.installed / "clusterd")]

    def start(self, argv: Sequence[str] | None = None, *, terminal: bool = False, wait: bool = True) -> Foreground:
        ours = [*self.command, "run", str(self.configure()), "--runtime", str(self.runtime)]
        return super().start(argv or ours, terminal=terminal, wait=wait)

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        argv = [*self.command, "upgrade", self.control]
        return subprocess.run(argv, capture_output=True, text=True, timeout=HANG)

    def spoil(self, file: str, old: str, new: str) -> None:
        path = self.installed / "clusterd" / file
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))


@pytest.fixture
def run() -> Iterator[Installed]:
    with Installed() as made:
        made.start()
        yield made


def test_upgrade(run: Installed) -> None:
    """Another master, of another version, the same workers, and nobody loses a request; by the signal too."""
    workers, old = run.pids(), run.master()
    version = run.status()["version"]
    run.spoil("__init__.py", f'"{version}"', '"99.0.0"')
    with asking(("127.0.0.1", run.port)) as asked:
        done = run.upgrade()
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"runtime: master {run.master()}, version 99.0.0\n"
        assert run.master() != old and run.pids() == workers
        old = run.master()
        os.kill(old, signal.SIGUSR1)
        run.wait_for("another master", lambda: run.master() not in (0, old))
    asked.assert_nothing_lost()
    assert run.pids() == workers


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("master/loop.py", "import signal\n", "import signal(\n", "SyntaxError: invalid syntax"),
        ("master/loop.py", "import signal\n", "import signal\nimport nowhere\n", "No module named 'nowhere'"),
        (
            "master/ledger.py",
            'saved["receipts"]',
            'saved["bills"]',
            "it cannot read what this master would leave to it",
        ),
        (
            "worker/wire.py",
            "OLDEST, PROTOCOL = 1, 1",
            "OLDEST, PROTOCOL = 2, 3",
            "the master that runs speaks protocol 1, this clusterd 2 to 3: restart the service",
        ),
    ],
    ids=["half written", "a dependency is missing", "another idea of the state", "another protocol"],
)
def test_one_that_cannot_take_over_is_refused(run: Installed, file: str, old: str, new: str, why: str) -> None:
    """It is found out before the master leaves, which stays, and says why."""
    workers, before = run.pids(), run.master()
    run.spoil(file, old, new)
    done = run.upgrade() if file != "master/loop.py" else run.clusterd("upgrade")
    assert done.returncode == 1
    assert done.stderr.startswith("clusterd: runtime: upgrade refused: the clusterd now on disk cannot take over: ")
    assert why in done.stderr
    os.kill(before, signal.SIGUSR1)
    run.wait_for("it to be told twice", lambda: run.said().count("this master stays") == 2)
    assert run.master() == before and run.pids() == workers
    run.spoil(file, new, old)
    assert run.upgrade().returncode == 0
    assert run.master() != before and run.pids() == workers


def gated_reload(run: Installed) -> subprocess.Popen[bytes]:
    """One under way, whose import waits until "gate" is removed."""
    (run.directory / "gate").touch()
    run.deploy("new", "\nimport pathlib, time\nwhile pathlib.Path('gate').exists():\n    time.sleep(0.02)\n")
    reloading = subprocess.Popen([*run.command, "reload", run.control], stderr=subprocess.DEVNULL)
    run.wait_for("the reload", lambda: run.status()["state"] == "reloading")
    return reloading


def test_a_reload_is_waited_for(run: Installed) -> None:
    """The master leaves when it is done, not in the middle of it."""
    before = run.master()
    reloading = gated_reload(run)
    os.kill(before, signal.SIGUSR1)
    assert run.status()["rollout"]["phase"] == "preparing" and run.master() == before
    (run.directory / "gate").unlink()
    assert reloading.wait(HANG) == 0
    run.wait_for("another master", lambda: run.master() not in (0, before))
    assert run.status()["generation"] == 2


REHEARSAL = """    try:
        saved = State(fd).read()
"""
GATED = """    try:
        import os
        with open("{directory}/rehearsals", "a") as f:
            f.write(f"{os.getpid()}\\n")
        while os.path.exists("{directory}/gated"):
            time.sleep(0.02)
        saved = State(fd).read()
"""


class Rehearsing(Installed):
    """An upgrade that has begun, whose trial of the new files lasts until it is let go on."""

    def begin(self) -> subprocess.Popen[str]:
        (self.directory / "gated").touch()
        self.spoil("master/rehearsal.py", REHEARSAL, GATED.replace("{directory}", str(self.directory)))
        argv = [*self.command, "upgrade", self.control]
        upgrading = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.wait_for("the rehearsal", self.rehearsals)
        return upgrading

    def rehearsals(self) -> list[str]:
        """The pids of those that there have been."""
        there = self.directory / "rehearsals"
        return there.read_text().split() if there.exists() else []

    def go_on(self) -> None:
        """The first is over."""
        (self.directory / "gated").unlink()
        self.wait_for("the end of the rehearsal", lambda: not os.path.exists(f"/proc/{self.rehearsals()[0]}"))


@pytest.fixture
def rehearsing() -> Iterator[Rehearsing]:
    with Rehearsing() as made:
        made.stop = "60s"
        made.start()
        yield made


def test_a_reload_that_begins_meanwhile(rehearsing: Rehearsing) -> None:
    """While the new files are tried: it is waited for too, and they are tried again with what came of it."""
    run = rehearsing
    before, upgrading = run.master(), run.begin()
    reloading = gated_reload(run)
    run.go_on()
    assert run.status()["rollout"]["phase"] == "preparing" and run.master() == before
    (run.directory / "gate").unlink()
    assert reloading.wait(HANG) == 0
    assert upgrading.communicate(timeout=HANG)[1] == "" and upgrading.returncode == 0
    assert run.master() != before and run.status()["generation"] == 2 and len(run.rehearsals()) == 2


def test_a_stop_that_begins_meanwhile(rehearsing: Rehearsing) -> None:
    """It is the end of the upgrade too: nobody is told that the new files cannot take over."""
    run = rehearsing
    upgrading = run.begin()
    (run.directory / "held").touch()
    with ask(run, "/held") as client:
        run.wait_for("the request to be read", lambda: unread(run.port) == 0)
        assert run.process is not None
        run.process.terminate()
        run.wait_for("it to drain", lambda: "workers drain" in run.said())
        run.go_on()
        (run.directory / "held").unlink()
        assert client.recv(12) == b"HTTP/1.1 200"
    said = upgrading.communicate(timeout=HANG)[1]
    assert run.wait() == 0 and upgrading.returncode == 7, said
    assert "cannot take over" not in run.said() + said


def test_older_workers_and_a_downgrade(run: Installed) -> None:
    """A newer clusterd takes the keeper, zygote and workers of an older one over, forks from that zygote, loads from
    the files now on disk at a reload; the older one cannot follow on it, which is found out before the newer leaves."""
    workers, now, newer = run.pids(), "OLDEST, PROTOCOL = 1, 1", "OLDEST, PROTOCOL = 1, 2"
    version = run.status()["version"]
    run.spoil("worker/wire.py", now, newer)
    run.spoil("__init__.py", f'"{version}"', '"99.0.0"')
    with asking(("127.0.0.1", run.port)) as asked:
        assert run.upgrade().returncode == 0
        assert run.pids() == workers and run.status()["version"] == "99.0.0"
        run.kill_master()
    asked.assert_nothing_lost()
    os.kill(workers[0], signal.SIGKILL)
    run.wait_for("a successor by the old zygote", lambda: run.at_rest(gone=workers[0]))
    assert run.clusterd("reload").returncode == 0
    run.wait_for("the old to be gone", run.at_rest)
    workers, master = run.pids(), run.master()
    run.spoil("worker/wire.py", newer, now)
    run.spoil("__init__.py", '"99.0.0"', f'"{version}"')
    refused = run.upgrade()
    assert refused.returncode == 1
    assert "the master that runs speaks protocol 2, this clusterd 1: restart the service" in refused.stderr
    assert (run.master(), run.pids()) == (master, workers)


def test_one_of_the_same_protocol_may_be_older(run: Installed) -> None:
    """Forth and back again: a downgrade is an upgrade."""
    workers, version = run.pids(), run.status()["version"]
    for old, new in ((version, "99.0.0"), ("99.0.0", version)):
        run.spoil("__init__.py", f'"{old}"', f'"{new}"')
        assert run.upgrade().returncode == 0
        assert run.status()["version"] == new and run.pids() == workers


@pytest.mark.parametrize("end", ["repaired", "stopped"])
def test_no_master_can_start(run: Installed, end: str) -> None:
    """The files are half written and the master dies: the workers serve on, and the keeper tries again. Once the files
    are whole a master takes over; a stop needs none."""
    workers, keeper = run.pids(), run.process
    assert keeper is not None
    run.spoil("master/loop.py", "import signal\n", "import signal(\n")
    with asking(("127.0.0.1", run.port)) as asked:
        run.signal_master(signal.SIGKILL)
        wanted = "starting another in 1.6 s" if end == "repaired" else "starting another in 0.2 s"
        end_of_it = time.monotonic() + HANG
        while wanted not in run.said():
            assert time.monotonic() < end_of_it, run.said()
            time.sleep(0.02)
        assert [pid for pid in workers.values() if not os.path.exists(f"/proc/{pid}")] == []
    asked.assert_nothing_lost()
    everything = run.everything()
    if end == "stopped":
        keeper.send_signal(signal.SIGTERM)
        assert run.wait() == 1
        assert gone(everything) == []
    else:
        run.spoil("master/loop.py", "import signal(\n", "import signal\n")
        run.wait_for("a master", run.at_rest)
        assert run.pids() == workers


@pytest.mark.proof
@pytest.mark.timeout(3000)
def test_a_hundred_in_a_row(run: Installed) -> None:
    """Nothing is lost, the workers are the same, the keeper has what it had before, and no process is left over."""
    settled(run)
    workers, before = run.pids(), held(run)
    with asking(("127.0.0.1", run.port)) as asked:
        for _ in range(100):
            old = run.master()
            assert run.upgrade().returncode == 0
            assert run.master() != old
    asked.assert_nothing_lost()
    assert run.pids() == workers
    run.wait_for("every process to be accounted for", run.accounted_for)
    run.wait_for(f"no more than {before} (a leak does not go away)", lambda: no_more(held(run), before))
