"""How many cores there are, for `workers` and `slots`. Imported by the generator: see names.py."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

MAX_SLOTS = 256


def cores(cgroups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """Cores this process may use: its affinity, and the tightest quota (CPUQuota=, docker's --cpus) on its way up the
    cgroup tree, of either version."""
    count = len(os.sched_getaffinity(0))
    for quota, period in _quotas(cgroups, own):
        # rounded up: a core and a half keeps two workers busy, each a part of the time
        count = min(count, max(1, -(-quota // period)))
    return count


def _quotas(cgroups: str, own: str) -> Iterator[tuple[int, int]]:
    """(quota, period) of every level that has one, both in microseconds."""
    try:
        with open(own, "rb") as f:
            lines = os.fsdecode(f.read()).splitlines()  # a name has any bytes, whatever the locale
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount, files = cgroups, ["cpu.max"]
        if controllers and "cpu" not in controllers.split(","):
            continue
        if controllers:
            mount, files = f"{cgroups}/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        parts = [part for part in path.split("/") if part]
        # Whatever is not there is passed over: in a container the path may be the host's, and the mount only a part.
        for depth in range(len(parts) + 1):
            try:
                words = " ".join(_read("/".join([mount, *parts[:depth], name])) for name in files).split()
                quota, period = int(words[0]), int(words[1])
            except (OSError, ValueError, IndexError):
                continue  # no cpu controller on this level, or "max"
            if quota > 0 and period > 0:
                yield quota, period


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read()


def rounded_up(share: float) -> int:
    """Workers for so many cores: a core and a half keeps two busy, each a part of the time."""
    return max(1, math.ceil(share))


def default_slots() -> int:
    """Slots where the file has none: more than the usual cores, so that workers can grow without a new socket.

    By the machine's cores, not those of a quota: the generator must find the same number from another cgroup.
    """
    return min(MAX_SLOTS, max(16, os.cpu_count() or 1))
