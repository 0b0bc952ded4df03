"""What this worker was given at its birth, for those who are imported after it, or never."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .board import Board

bus: int | None = None
"""Its end of the bus; None: it has none, or this is no worker."""
board: Board | None = None
"""Its page on the scoreboard; None: it has none, or this is no worker."""
asynchronous = False
"""An event loop will run the application."""
imported = threading.Event()
"""Not set: this process imports the application for itself alone, and is no worker before it has: nothing is sent or
heard. Threads that the import began wait for it."""
imported.set()
