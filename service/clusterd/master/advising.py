"""What may be wrong with a `command` that does not come up: mostly it does not know where its sockets come from."""

from __future__ import annotations

import os

from clusterd.shell.procnet import Listener

TAKES_NONE = "it does not take sockets from systemd"
HOW = "a command takes its sockets from LISTEN_FDS, it opens none (docs/commands.md)"


def early_end(status: int | None) -> str:
    """Of a program that ended, with that wait status, before it was ready; "" when it was killed."""
    if status is None or os.WIFSIGNALED(status):
        return ""
    if status == 0:
        return "a command stays in the foreground, and serves until SIGTERM (docs/commands.md)"
    return f"what it said is in the log; if it found the address in use, {TAKES_NONE}: {HOW}"


def bypassed(own: list[Listener]) -> str:
    """Of a program that listens on sockets it made itself."""
    where = ", ".join(sorted({each.text for each in own})[:3])
    return f"{TAKES_NONE}: it listens on {where} by itself; {HOW}"


def silent(own: list[Listener], notify: bool) -> str:
    """Of a program that runs and was not ready in time."""
    if own:
        return bypassed(own)
    if notify:
        return 'it runs, and did not say READY=1 (ready = "after 2s" is for programs that cannot; docs/commands.md)'
    return ""
