"""Children that were told to go and are not waited for: reaped once they are gone, or they would stay as zombies."""

from __future__ import annotations

import os

from clusterd.shell import pidfd


class Leaving:
    def __init__(self) -> None:
        self._fds: list[int] = []

    def add(self, fd: int) -> None:
        """A process by its pidfd, which stays the caller's. Another's child is let be."""
        self._fds.append(os.dup(fd))

    def reap(self) -> None:
        for fd in [fd for fd in self._fds if not pidfd.alive(fd)]:
            pidfd.status(fd)
            self._fds.remove(fd)
            os.close(fd)
