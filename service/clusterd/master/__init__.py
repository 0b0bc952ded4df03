"""The master: what the core decides, carried out. `start` is for the unit, `run` for a terminal, `main` a master."""

from __future__ import annotations

from clusterd.master.entry import main, run, start

__all__ = ["main", "run", "start"]
