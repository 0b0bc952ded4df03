"""`clusterd drain`, what ExecStop= runs: it never makes a stop that succeeded look like a failure."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from clusterd import drain
from clusterd.worker.wire import Wire
from tests.patience import HANG
from tests.shell.waiting import Spawn, readable


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("MAINPID", raising=False)
    return tmp_path


def test_nothing_is_there(runtime: Path) -> None:
    """Without a control socket there is nothing to drain."""
    assert drain.main("hello") == 0


def test_the_keeper_has_just_left(runtime: Path) -> None:
    """The socket's file is still there and nobody listens on it: that is the end waited for, not a failure."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(runtime / "control"))
        sock.listen()
    assert drain.main("hello") == 0


def test_a_master_that_has_only_just_begun(runtime: Path, python: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first does not answer, and is killed; the next one is given its time to start, or the keeper would be killed,
    and systemd would take what the workers have in flight."""
    assert drain.SUCCESSOR > drain.ANSWER + 1.0
    master, keeper = (python("import signal; signal.pause()") for _ in range(2))
    monkeypatch.setenv("MAINPID", str(master.pid))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(HANG)
        listener.bind(str(runtime / "control"))
        listener.listen()
        draining = python(
            "import sys; from clusterd import drain; drain.SUCCESSOR = drain.LEAVING = 1000.0;"
            "sys.exit(drain.main('hello'))"
        )
        first, _ = listener.accept()
        with first:
            assert master.wait(HANG) == -signal.SIGKILL
        second, _ = listener.accept()
        with second:
            end = os.pidfd_open(draining.pid)
            assert not readable(end, drain.ANSWER + 1.0), "it waits longer than for the first"
            os.close(end)
            Wire(second).send({"parameters": {"keeper": keeper.pid}})
        assert keeper.poll() is None
        keeper.terminate()
        assert draining.wait(HANG) == 0 and keeper.wait(HANG) == -signal.SIGTERM
