"""What a master decides by, and leaves to its successor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clusterd.config.settings import Settings
from clusterd.core import codec
from clusterd.core.model import Cluster
from clusterd.master.receipts import Receipt
from clusterd.master.releases import Release
from clusterd.tasks import codec as tasks
from clusterd.tasks.model import Tasks
from clusterd.worker.wire import OLDEST, PROTOCOL

RECEIPTS = 10
"""How many are remembered."""


SLOTS = 1024
"""How many are remembered how their workers ended: as many as there can be."""


class Foreign(Exception):
    """What runs is of a clusterd that this one does not understand."""


def _understand(who: str, protocol: int) -> None:
    """Raises Foreign."""
    if not OLDEST <= protocol <= PROTOCOL:
        spoken = str(PROTOCOL) if OLDEST == PROTOCOL else f"{OLDEST} to {PROTOCOL}"
        raise Foreign(f"{who} that runs speaks protocol {protocol}, this clusterd {spoken}")


@dataclass(frozen=True)
class Ends:
    """How workers of a slot have ended that had not been asked to."""

    count: int
    last: str
    when: float
    """Of the last, monotonic."""


@dataclass
class Ledger:
    """One owner, the loop; the other parts read it. `environment` is what the first generation is given."""

    environment: dict[str, str]
    cluster: Cluster = field(default_factory=Cluster)
    releases: dict[int, Release] = field(default_factory=dict)
    receipts: dict[int, Receipt] = field(default_factory=dict)
    """By number, the last to end last."""
    tasks: Tasks = field(default_factory=Tasks)
    ends: dict[int, Ends] = field(default_factory=dict)
    """By slot."""
    pids: dict[int, int] = field(default_factory=dict)
    """Of workers and runs, by number: the descriptor of a process that has been reaped does not tell."""
    keeper: int = PROTOCOL
    """Which protocol the keeper speaks."""

    @property
    def serving(self) -> Release | None:
        """The generation that serves; None while it has never been up."""
        release = self.releases.get(self.cluster.current) if self.cluster.current is not None else None
        return release if release is not None and release.mode else None

    @property
    def running(self) -> Settings | None:
        """Its settings."""
        return self.serving.settings if self.serving is not None else None

    @property
    def in_force(self) -> Mapping[str, str]:
        """The environment of what serves, for a reload that brings none: never that of a reload that was refused."""
        return self.serving.environment if self.serving is not None else self.environment

    @property
    def certified(self) -> tuple[Settings, dict[str, str]] | None:
        """The settings and [tls] contents of the generation that serves; None where it has none."""
        release = self.releases.get(self.cluster.current) if self.cluster.current is not None else None
        return (release.settings, release.tls) if release is not None and release.settings and release.tls else None

    @property
    def last_receipt(self) -> Receipt | None:
        return next(reversed(self.receipts.values()), None)

    def add(self, receipt: Receipt) -> None:
        """It is the last from now on, whatever its number: what began before it may end after it, or end anew."""
        self.receipts.pop(receipt.number, None)
        self.receipts[receipt.number] = receipt
        while len(self.receipts) > RECEIPTS:
            del self.receipts[next(iter(self.receipts))]

    def ended(self, slot: int, how: str, when: float) -> None:
        """A worker of `slot` has ended by itself, or had to be ended."""
        if slot in self.ends or len(self.ends) < SLOTS:
            self.ends[slot] = Ends(self.ends[slot].count + 1 if slot in self.ends else 1, how, when)

    def note_pid(self, number: int, pid: int | None) -> int | None:
        """The pid of a worker or run; where that cannot be known any more (None), as it was noted."""
        if pid is not None:
            self.pids[number] = pid
        return self.pids.get(number)

    def to_json(self) -> dict[str, Any]:
        """Holds secrets: for the memfd alone."""
        return {
            "protocol": PROTOCOL,
            "keeper": self.keeper,
            "cluster": codec.to_json(self.cluster),
            "releases": {str(k): r.to_json() for k, r in self.releases.items()},
            "receipts": [asdict(r) for r in self.receipts.values()],
            "environment": self.environment,
            "tasks": tasks.to_json(self.tasks),
            "pids": {str(number): pid for number, pid in self.pids.items()},
            "ends": {str(slot): asdict(ends) for slot, ends in self.ends.items()},
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Ledger:
        """The inverse. Raises KeyError, TypeError or ValueError on anything else, Foreign where versions do not fit."""
        _understand("the master", saved.get("protocol", 1))
        _understand("the keeper", saved.get("keeper", 1))
        for generation, release in saved["releases"].items():
            _understand(f"the zygote of generation {generation}", release.get("protocol", 1))
        return cls(
            keeper=saved.get("keeper", 1),
            environment=saved["environment"],
            cluster=codec.from_json(saved["cluster"]),
            releases={int(k): Release.from_json(v) for k, v in saved["releases"].items()},
            receipts={r["number"]: Receipt(**r) for r in saved["receipts"]},
            tasks=tasks.from_json(saved["tasks"]) if "tasks" in saved else Tasks(),  # an older release has none
            pids={int(number): int(pid) for number, pid in saved.get("pids", {}).items()},
            ends={int(slot): Ends(**ends) for slot, ends in saved.get("ends", {}).items()},
        )
