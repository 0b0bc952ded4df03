"""`clusterd drain`, what ExecStop= runs: it never makes a stop that succeeded look like a failure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from clusterd import drain


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
