"""Whether an account of the service's own could read an application, by the modes of the directories above it."""

from __future__ import annotations

import pwd
import stat
from pathlib import Path


def closed(paths: list[Path]) -> Path | None:
    """The first directory on the way to one of `paths` that keeps others out; None when none does."""
    for path in paths:
        for each in reversed([path, *path.parents]):
            try:
                mode = each.stat().st_mode
            except OSError:
                return each
            wanted = stat.S_IXOTH if each != path else stat.S_IXOTH | stat.S_IROTH
            if stat.S_ISDIR(mode) and mode & wanted != wanted:
                return each
    return None


def owner(path: Path) -> str | None:
    """The account `path` belongs to; None for root, and where it has no name."""
    try:
        uid = path.stat().st_uid
        return pwd.getpwuid(uid).pw_name if uid else None
    except (OSError, KeyError):
        return None
