"""The master: what the core decides, carried out. `start` is the unit's program, `run` the foreground's, `main` a master."""

from __future__ import annotations

from clusterd.master.entry import main, run, start

__all__ = ["main", "run", "start"]
