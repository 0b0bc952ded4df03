"""How clusterd starts parts of itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import clusterd


def program(*arguments: str) -> list[str]:
    """The command that runs this very installation of clusterd with `arguments`, nothing from the environment in it."""
    return [sys.executable, "-I", "-B", str(Path(clusterd.__file__).parent), *arguments]


def environment() -> dict[str, str]:
    """For our own helper processes: what systemd told us of itself stays with us."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "WATCHDOG_"))}
