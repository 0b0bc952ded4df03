"""What a process takes, by proc(5)."""

from __future__ import annotations

import os
import re

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes in memory, all of what is shared included (RSS); 0 when it is gone."""
    try:
        return int(_read(pid, "statm").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def processor(pid: int) -> float:
    """Seconds of processor time it has taken so far; 0.0 when it is gone."""
    try:
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return 0.0


def proportional(pid: int) -> int:
    """Bytes in memory, of what is shared its part (PSS); the resident ones where that may not be read."""
    try:
        text = _read(pid, "smaps_rollup")
    except OSError:
        return resident(pid)
    found = re.search(r"^Pss:\s+([0-9]+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else resident(pid)


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since the machine started; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, or a debugger."""
    try:
        return _stat(pid)[0] in "Tt"
    except (OSError, IndexError):
        return False


def _stat(pid: int) -> list[str]:
    """From the third field on: the second may hold anything."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    # No pathlib: it interns each part of a path, and pids are new ones all the time.
    with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as f:
        return f.read()
