"""How clusterd starts parts of itself."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import clusterd
from clusterd.shell import process


def program(*arguments: str) -> list[str]:
    """The command that runs this very installation of clusterd with `arguments`, nothing from the environment in it."""
    return [sys.executable, "-I", "-B", str(Path(clusterd.__file__).parent), *arguments]


def start_helper(name: str) -> tuple[int, int]:
    """Run `clusterd NAME FD` beside the master: our end of the socketpair whose other is FD, and its pidfd. Raises
    OSError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _, fd = process.start(program(name, str(theirs.fileno())), environment(), "/", [theirs.fileno()])
        return ours.detach(), fd


def failure(e: OSError) -> str:
    """Why a process could not be started, and what file that is about, where it is about one."""
    return f"{e.strerror} '{e.filename}'" if e.filename else f"{e.strerror}"


def environment() -> dict[str, str]:
    """For our own helper processes: what systemd told us of itself stays with us."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "WATCHDOG_"))}
