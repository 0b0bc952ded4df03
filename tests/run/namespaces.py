"""`clusterd run` as PID 1 of a namespace, as a container's engine starts it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.lacking import lacking
from tests.run.foreground import CLUSTERD, Foreground

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]


class PidOne(Foreground):
    """One `clusterd run FILE` that is PID 1. `init` is its pid out here; `process` is unshare, and exits alike."""

    def start(self, argv: Sequence[str] | None = None, *, terminal: bool = False, wait: bool = True) -> PidOne:
        lacking(None if os.geteuid() == 0 and shutil.which("unshare") else "needs unshare(1), as root")
        if argv is None:
            argv = [*UNSHARE, *CLUSTERD, "run", str(self.configure()), "--runtime", str(self.runtime)]
        super().start(argv, terminal=terminal, wait=wait)
        return self

    @property
    def init(self) -> int:
        assert self.process is not None
        return self.wait_for("PID 1", lambda: next(iter(children(self.process.pid)), 0) if self.process else 0)

    def signal(self, number: int) -> None:
        os.kill(self.init, number)

    def __exit__(self, *exception: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGTERM)  # unshare does not pass it on
        super().__exit__(*exception)


def children(pid: int) -> list[int]:
    """The children of `pid`, as they are numbered out here."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
