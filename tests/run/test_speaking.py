"""What processes of the application say to the master: for themselves alone, and however much of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from tests.run.foreground import CLUSTERD, Foreground
from tests.speaking import SPEAKER

FILE = """\
command = ["{python}", "server.py"]
directory = "{directory}"
listen = "127.0.0.1:{port}"
workers = 3
"""


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground(workers=3) as made:
        (made.directory / "server.py").write_text(SPEAKER)
        file = made.directory / "speaker.toml"
        file.write_text(FILE.format(python=sys.executable, directory=made.directory, port=made.port))
        made.start([*CLUSTERD, "run", str(file), "--runtime", str(made.runtime)])
        yield made


def texts(run: Foreground) -> set[str | None]:
    """What each worker said last, by `clusterd status`."""
    return {w["status_text"] for w in run.status()["workers"]}


def test_none_speaks_for_another(run: Foreground) -> None:
    """What a worker sends to the notify sockets of others is ignored, and told once a worker; what a child of it sends,
    in a session of its own too, counts."""
    pids = run.pids()
    (run.directory / "forge").touch()
    run.wait_for("each to have forged the others", lambda: texts(run) == {"forged 2"})
    assert run.pids() == pids and run.at_rest()
    lines = [line for line in run.said().splitlines() if "what it says in its place is ignored" in line]
    assert len(lines) == 3
    (run.directory / "child").touch()
    run.wait_for("their children", lambda: texts(run) == {"a child's"})


def test_a_flood_of_notices(run: Foreground) -> None:
    """Three workers say as much as is taken: the master answers, follows a worker that dies, and grows by nothing."""
    master = run.status()["master"]["pid"]
    before = grown(master)
    (run.directory / "flood").touch()
    run.wait_for("the flood", lambda: texts(run) == {"x" * 200})
    old = run.pids()[0]
    os.kill(old, signal.SIGKILL)
    run.wait_for("its successor", lambda: run.at_rest(gone=old))
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert run.status()["state"] == "serving"
    assert grown(master) - before < 2 << 20
    (run.directory / "flood").unlink()
    run.wait_for("it to end", lambda: texts(run) == {"flooded"})
    assert run.status()["master"]["pid"] == master


def grown(pid: int) -> int:
    """Bytes that are its own: private and dirty."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return sum(int(line.split()[1]) << 10 for line in f if line.startswith("Private_Dirty:"))
