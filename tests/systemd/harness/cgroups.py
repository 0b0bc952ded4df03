"""Where a machine's own cgroup goes: without one, two machines would share the root cgroup and clean up each other."""

from __future__ import annotations

import os
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
PREFIX = "clusterd-test-"


def unified() -> Path | None:
    """The mount of cgroup v2: the whole of it on a plain machine, beside v1 on a hybrid one, None if there is none."""
    for mount in (TOP, TOP / "unified"):
        if (mount / "cgroup.procs").exists() and (mount / "cgroup.subtree_control").exists():
            return mount
    return None


def places(name: str) -> list[Path]:
    """The directories for the machine `name`, v2 first: nspawn on a hybrid machine uses systemd's v1 too."""
    v2 = unified()
    if v2 is None:
        raise RuntimeError(f"no cgroup v2 under '{TOP}'")
    mounts = [v2] if v2 == TOP else [v2, TOP / "systemd"]
    return [mount / f"{PREFIX}{name}" for mount in mounts if (mount / "cgroup.procs").exists()]


def writable() -> bool:
    """Whether this process may make cgroups (in an ordinary container root may not)."""
    v2 = unified()
    return v2 is not None and os.access(v2, os.W_OK) and not os.statvfs(v2).f_flag & os.ST_RDONLY
