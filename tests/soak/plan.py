"""What is to happen, from a seed: the same seed, the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    number: int
    fault: str
    after: float
    """Seconds since the step before began; 0.0: in the middle of it."""
    settles: bool
    """Whether everything has to come to rest before the next one."""
    chance: float
    """0.0 to 1.0: whom it strikes, and how."""

    def __str__(self) -> str:
        return f"{self.number:5} {self.fault:<24} {self.chance:.3f}{', then rest' if self.settles else ''}"


def plan(seed: int, faults: Sequence[str]) -> Iterator[Step]:
    """Without end. Every fault comes once in each round of them, so that a short run has had them all."""
    chance, number = random.Random(seed), 0
    while True:
        for fault in chance.sample(faults, len(faults)):
            number += 1
            after = chance.choice([0.0, chance.uniform(0.05, 0.6)])
            yield Step(number, fault, after, chance.random() < 0.4, chance.random())
