"""What a process prints, into a journal stream mostly: standard output and error, and whose they are to journald."""

from __future__ import annotations

import os
import sys

from . import native
from .process import borrowed

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
    try:
        with borrowed(fd) as sock:
            if not native.is_stream(sock):
                return
        status = os.fstat(fd)
    except OSError:
        return
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"


def introduce(patience: float = PATIENCE) -> None:
    """Let journald meet this process, and give it `patience` seconds to: a program may end as soon as it begins."""
    try:
        with borrowed(2) as sock:
            told = native.introduce(sock)
    except OSError:
        return
    if told:
        native.await_reader(2, patience)
