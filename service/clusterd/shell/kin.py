"""Who a process descends from, by proc(5)."""

from __future__ import annotations

from collections.abc import Iterator

_DEEPEST = 64


def line(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on upwards, at most 64 of them; ends where a process is gone or may not be seen."""
    for _ in range(_DEEPEST):
        if pid <= 0:
            return
        yield pid
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                pid = int(f.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return
