"""The scoreboard: one page a worker, written by it alone."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time

import pytest

from clusterd.worker import board
from clusterd.worker.board import UNKNOWN, Board, Figures


def test_what_is_written_is_read() -> None:
    """Nothing before the first sign of life; then the time of the last one, and the figures, unknown ones as None."""
    fd = board.create()
    own = Board(os.dup(fd))
    assert board.read(fd) is None
    before = time.monotonic()
    own.show(Figures(7, None, 3))
    assert board.read(fd) is None
    own.beat()
    page = board.read(fd)
    assert page is not None and before <= page.beat <= time.monotonic()
    assert page.figures == Figures(7, None, 3)
    os.close(fd)


def test_it_keeps_its_size() -> None:
    """A worker can neither take the page away under the reader, nor fill memory with it, nor lift that."""
    fd = board.create()
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, 1033, 0x8)
    os.close(fd)


@pytest.mark.parametrize(
    "words",
    [(2, 1, 0, 0, 0), (1, 0, 0, 0, 0), (UNKNOWN,) * 5, (0,) * 5],
    ids=["another layout", "no sign of life", "all ones", "nothing"],
)
def test_what_is_no_page_is_nothing(words: tuple[int, ...]) -> None:
    """Whatever a worker writes there, the reader has numbers or nothing."""
    fd = board.create()
    os.pwrite(fd, struct.pack("=5Q", *words), 0)
    assert board.read(fd) is None
    os.close(fd)


def test_a_child_of_the_worker_does_not_beat() -> None:
    """What the application forks has the page in its memory; a living child is no sign of a living worker."""
    fd = board.create()
    own = Board(os.dup(fd))
    own.beat()
    before = board.read(fd)
    pid = os.fork()
    if pid == 0:
        own.beat()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.read(fd) == before
    os.close(fd)


def test_no_page_is_refused() -> None:
    """A descriptor of something else is closed, and an error."""
    reader, writer = os.pipe()
    with pytest.raises(OSError):
        Board(reader)
    with pytest.raises(OSError):
        os.fstat(reader)
    os.close(writer)


def test_the_signal_is_of_nobody_else() -> None:
    """Neither the C library's nor one of those that applications use."""
    assert signal.SIGRTMIN + 2 < board.STACKS < signal.SIGRTMAX
