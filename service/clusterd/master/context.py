"""What every part of the master is given: who it is, where it lives, and the kernel's things it works with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from clusterd.config.places import SYSTEM, Place
from clusterd.core.events import Event
from clusterd.master.keeping import Keeping
from clusterd.master.leaving import Leaving
from clusterd.master.streams import Streams
from clusterd.shell.cgroup import Cgroups
from clusterd.shell.control import Client, Control
from clusterd.shell.journal import Journal
from clusterd.shell.listeners import Slots
from clusterd.shell.notify import Notifier
from clusterd.shell.poll import Poll

Key = tuple[str, int] | Control | Client
"""What is ready: a kind of descriptor and the worker or generation it is of; or the control socket, or a client."""


@dataclass(frozen=True)
class Context:
    name: str
    runtime: Path
    foreground: bool
    keeping: Keeping
    cgroups: Cgroups
    journal: Journal
    streams: Streams
    notifier: Notifier
    poll: Poll[Key]
    slots: Slots
    library: Path
    """Where this version's worker side was copied to."""
    place: Place = SYSTEM
    oom_score: int = 0
    """The master's own. Zygotes have a higher one and workers the highest: they are to go first when memory runs out. A
    user's master has 100 and cannot have less."""
    leaving: Leaving = field(default_factory=Leaving)

    @property
    def zygote_oom_score(self) -> int:
        return max(100, self.oom_score + 50)

    @property
    def worker_oom_score(self) -> int:
        return max(200, self.oom_score + 100)

    events: deque[Event] = field(default_factory=deque)
    """What the parts have seen and the core has not been told yet."""
