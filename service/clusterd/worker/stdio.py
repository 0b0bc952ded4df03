"""What a process prints, into a journal stream mostly: standard output and error, and whose they are to journald."""

from __future__ import annotations

import os
import socket
import stat
import sys

from .native import await_reader
from .process import borrowed

JOURNAL_STDOUT = "/run/systemd/journal/stdout"
"""Where journald listens for what services print."""

PATIENCE = 0.1
"""Seconds for journald to meet who has just begun. One that is well takes a millisecond or two."""


def take(fd: int) -> None:
    """Make `fd` standard output and error, written line by line, since a journal stream makes a record of each line."""
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    if fd > 2:
        os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    tell_journal_stream()


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def tell_journal_stream(fd: int = 2) -> None:
    """Let $JOURNAL_STREAM speak of this process's own standard error, as systemd.exec(5) has it.

    Found by looking at the socket's other end: the variable that came with the environment, if any, is another's.
    """
    os.environ.pop("JOURNAL_STREAM", None)
    if _is_journal_stream(fd):
        status = os.fstat(fd)
        os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"


def introduce(patience: float = PATIENCE) -> None:
    """Let journald meet this process, if it prints into a journal stream: an empty line, of which it makes no record.

    At the first line of another process in a stream journald asks /proc for its unit, and knows it from then on, as
    long as the stream lasts and nobody else writes into it. Met only by its last words, and gone when they are read, a
    worker would have none under `journalctl -u`. It is given `patience` seconds, since a program may end as soon as it
    begins.
    """
    if not _is_journal_stream(2):
        return
    try:
        with borrowed(2) as sock:
            sock.send(b"\n", socket.MSG_DONTWAIT)
    except OSError:
        return  # full, or ended: nobody is there to be met
    await_reader(2, patience)


def _is_journal_stream(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with borrowed(fd) as sock:
            return bool(sock.getpeername() == JOURNAL_STDOUT)
    except OSError:
        return False
