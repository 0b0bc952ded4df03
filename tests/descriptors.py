"""What a process has open."""

from __future__ import annotations

import contextlib
import os


def links(pid: int) -> list[str]:
    """What each of its descriptors is, as proc(5) shows it: "socket:[4711]"; but for those that it closes meanwhile."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found
