"""The plan of a soak."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tests.soak.faults import FAULTS
from tests.soak.plan import plan


@given(st.integers(0, 10**6))
def test_a_seed_is_a_plan(seed: int) -> None:
    """The same seed does the same, each round has every fault once, and moments and chances are in their ranges."""
    steps = list(islice(plan(seed, sorted(FAULTS)), 3 * len(FAULTS)))
    assert steps == list(islice(plan(seed, sorted(FAULTS)), 3 * len(FAULTS)))
    for round in range(3):
        part = steps[round * len(FAULTS) : (round + 1) * len(FAULTS)]
        assert sorted(step.fault for step in part) == sorted(FAULTS)
    assert all(0.0 <= step.after <= 0.6 and 0.0 <= step.chance < 1.0 for step in steps)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
