"""Cgroups of the tests' own on this machine, of version 1 or 2, for what a process may take."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lacking import lacking
from tests.patience import HANG


@contextlib.contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """An empty one with `controller`; removed at the end, when nobody is in it any more."""
    one, two = Path("/sys/fs/cgroup", controller), Path("/sys/fs/cgroup")
    unified = (two / "cgroup.controllers").is_file()
    parent = two if unified else one
    if unified:
        if controller not in (two / "cgroup.controllers").read_text().split():
            lacking(f"no {controller} controller")
        (two / "cgroup.subtree_control").write_text(f"+{controller}")
    elif not os.access(parent, os.W_OK):
        lacking(f"no {controller} controller to be had")
    made = parent / f"clusterd-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        end = time.monotonic() + HANG
        while (made / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.01)  # who is killed last leaves it a moment later
        made.rmdir()


def limit(group: Path, **values: str) -> None:
    """By the name in version 2; version 1 has its own for memory.max."""
    for name, value in values.items():
        file = group / name.replace("_", ".")
        old = {"memory.max": "memory.limit_in_bytes"}
        (file if file.exists() else group / old[file.name]).write_text(value)
