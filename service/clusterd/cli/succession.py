"""What was asked of a master that is replaced meanwhile: the next one goes on with it, and is asked how it came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from clusterd.cli import control
from clusterd.cli.instances import Instance

Found = TypeVar("Found")

AWAITED = 30.0
"""Seconds without an answer after which a reload gives the master up: twice what the keeper takes to replace one that
hangs. A reload that fails is a deploy that fails, so it asks for more patience than a look at the status. The keeper
has the control socket: whoever asks while there is no master waits for the next one's start."""

SUCCESSION = 15.0
"""Seconds within which a master that went away has a successor; it takes milliseconds."""


def until(instance: Instance, found: Callable[[dict[str, Any]], Found | None]) -> Found:
    """What `found` makes of the status, asked for until it makes something of it, of whichever master there is.

    Raises NotRunning or Lost where there has been none for SUCCESSION seconds, and what `found` raises.
    """
    deadline = time.monotonic() + SUCCESSION
    while True:
        try:
            status = control.status(instance, patience=AWAITED)
        except (control.NotRunning, control.Lost):
            if time.monotonic() > deadline:
                raise
        else:
            if (it := found(status)) is not None:
                return it
            deadline = time.monotonic() + SUCCESSION
        time.sleep(0.1)  # nothing to wait on: the connection to wait on is what was lost
