"""How many cores there are, for `workers` and `slots`. Imported by the generator: see names.py."""

from __future__ import annotations

import os

MAX_SLOTS = 256


def cores(cgroups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """Cores this process may use: its affinity, and the tightest cpu.max (CPUQuota=) on its way up the cgroup tree."""
    count = len(os.sched_getaffinity(0))
    try:
        with open(own) as f:
            path = next(line[3:] for line in f if line.startswith("0::")).strip()
    except (OSError, StopIteration):
        return count
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        try:
            with open("/".join([cgroups, *parts[:depth], "cpu.max"])) as f:
                quota, period = f.read().split()
            # rounded up: a core and a half keeps two workers busy, each a part of the time
            count = min(count, max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError):
            continue  # no cpu controller on this level, or "max"
    return count


def default_slots() -> int:
    """Slots where the file has none: more than the usual cores, so that workers can grow without a new socket.

    By the machine's cores, not those of a quota: the generator must find the same number from another cgroup.
    """
    return min(MAX_SLOTS, max(16, os.cpu_count() or 1))
