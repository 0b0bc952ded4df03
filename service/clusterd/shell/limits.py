"""Limits of this process and of all that it starts."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

DESCRIPTORS = 65536
"""What the unit's LimitNOFILE= has. Not the hard limit itself: engines of containers set it to a thousand million, and
there are programs that walk through every number below the soft one before they exec."""


def oom_score() -> int:
    """This process's oom_score_adj; 0 where there is none."""
    try:
        return int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


BESIDE = 64
"""Descriptors that the keeper and the master have beside those of the slots, for a handful of workers."""


def raise_descriptors(wanted: int = DESCRIPTORS) -> None:
    """Let `wanted` files be open at once, or as many as the hard limit has: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def need_descriptors(slots: int) -> None:
    """Raises OSError where the hard limit leaves no room for so many slots and what serves them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < slots + BESIDE:
        raise OSError(
            f"{slots} slots need {slots + BESIDE} open files at least, and the limit is {hard}: "
            "raise it (ulimit -Hn, or LimitNOFILE= of the unit that starts this), or set fewer 'slots'"
        )
