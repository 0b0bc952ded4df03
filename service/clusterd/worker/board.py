"""The page of one worker on the scoreboard: what it says of itself without a system call, and the master reads.

A sealed memfd of 4 KiB for each worker, so that none can speak for another, or take the memory away under the reader.
Words of 64 bits in the machine's order, each written at once, by the worker alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass

SIZE = 4096
STACKS = signal.SIGRTMIN + 9
"""The signal at which a worker writes the stacks of its threads to its standard error, whatever it does."""

UNKNOWN = (1 << 64) - 1
_WORDS = struct.Struct("=QQQQQ")
_LAYOUT = 1
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: Python names them since 3.12."""


@dataclass(frozen=True)
class Figures:
    """What a worker does. None: its engine does not say."""

    requests: int | None = None
    """Begun since the worker was born; by uvicorn's own count, answered."""
    in_flight: int | None = None
    connections: int | None = None


@dataclass(frozen=True)
class Page:
    beat: float
    """When it gave a sign of life last, in monotonic seconds."""
    figures: Figures


def create() -> int:
    """An empty page: a descriptor, for the worker and for whoever reads."""
    fd = os.memfd_create("board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    return fd


def read(fd: int) -> Page | None:
    """None as long as nothing was written. Whatever stands there is taken as numbers: it is the worker's own."""
    layout, beat, *figures = _WORDS.unpack(os.pread(fd, _WORDS.size, 0))
    if layout != _LAYOUT or not beat:
        return None
    return Page(beat / 1e9, Figures(*(None if each == UNKNOWN else each for each in figures)))


class Board:
    """The worker's own page. Taken by fork, it is the parent's: a worker's children write nothing."""

    def __init__(self, fd: int) -> None:
        """Takes `fd` over. Raises OSError or ValueError when it is no page."""
        try:
            self._words = memoryview(mmap.mmap(fd, SIZE)).cast("Q")
        finally:
            os.close(fd)
        self._owner = os.getpid()
        self._words[2:5] = memoryview(struct.pack("=QQQ", UNKNOWN, UNKNOWN, UNKNOWN)).cast("Q")

    def show(self, figures: Figures) -> None:
        words = self._words
        for index, figure in enumerate((figures.requests, figures.in_flight, figures.connections), 2):
            words[index] = UNKNOWN if figure is None else figure

    def beat(self) -> None:
        """A sign of life."""
        if os.getpid() == self._owner:
            self._words[1] = time.monotonic_ns()
            self._words[0] = _LAYOUT
