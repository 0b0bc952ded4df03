"""Processor time, which a busy machine hardly changes, where a clock would."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Sequence


def spent(argv: Sequence[str]) -> float:
    """Seconds that a program takes of the processor, which has to exit with 0."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
