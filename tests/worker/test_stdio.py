"""What a process prints into, and how journald comes to know whose it is."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.worker import native, stdio
from tests.patience import HANG
from tests.records import journal_stream

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Ends]:
    """A stream into a journal, and the journal's end of it."""
    with journal_stream(tmp_path) as ends:
        yield ends


@contextlib.contextmanager
def printing(fd: int) -> Iterator[None]:
    """`fd` is standard error. Not a fixture: pytest has its own there by the time the test is called."""
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_journal_stream_is_found_by_looking(stream: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """$JOURNAL_STREAM names standard error when journald is at its other end, and is not there otherwise."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    ours, theirs = stream
    stdio.tell_journal_stream(ours.fileno())
    status = os.fstat(ours.fileno())
    assert os.environ["JOURNAL_STREAM"] == f"{status.st_dev}:{status.st_ino}"
    stdio.tell_journal_stream(theirs.fileno())
    assert "JOURNAL_STREAM" not in os.environ


def test_who_begins_is_met(stream: Ends) -> None:
    """An empty line, which is no record, and time to read it."""
    ours, theirs = stream
    theirs.settimeout(HANG)
    met = threading.Thread(target=stdio.introduce, args=(HANG,))
    began = time.monotonic()
    with printing(ours.fileno()):
        met.start()
        assert theirs.recv(100) == b"\n"
        met.join()
    assert time.monotonic() - began < HANG


def test_nobody_waits_for_a_journal_that_does_not_read(stream: Ends) -> None:
    """Who begins goes on after a moment; where there is no room for a line, or no journal, at once."""
    ours, theirs = stream
    with printing(ours.fileno()):
        began = time.monotonic()
        stdio.introduce(0.1)
        assert time.monotonic() - began >= 0.1 and theirs.recv(100) == b"\n"
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(b"full" * 1000)
        ours.setblocking(True)
        began = time.monotonic()
        stdio.introduce(HANG)
        theirs.close()
        stdio.introduce(HANG)
        assert time.monotonic() - began < HANG


def test_only_a_journal_is_met() -> None:
    """Who reads a socket or a pipe of another kind gets no empty line."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs, open(reader, "rb") as read, open(writer, "wb", buffering=0):
        for fd in (writer, ours.fileno()):
            with printing(fd):
                stdio.introduce(HANG)
                os.write(2, b"said")
        assert (os.read(read.fileno(), 100), theirs.recv(100)) == (b"said", b"said")


def test_what_is_no_socket_is_not_waited_for() -> None:
    """Standard error as a file, of whoever ends."""
    began = time.monotonic()
    with open(os.devnull, "wb") as null:
        native.await_reader(null.fileno(), HANG)
    assert time.monotonic() - began < HANG
