"""How long a seat waits before it is tried again.

Consecutive deaths before READY, or soon after it, count; a worker that lived clears the count. The delay grows by half
with each, so that a broken deploy does not spin and a repaired one is back soon; the cap is the operator's.
"""

from __future__ import annotations

from clusterd.core.model import Failures, Policy

GROWTH = 1.5
MIN_LIFE = 1.0
"""Seconds after READY from which a death is bad luck and not a failure to start (PM2's min_uptime is as long)."""


def after_failure(failures: Failures | None, policy: Policy, now: float, salt: int) -> Failures:
    """One more consecutive failure. `salt` spreads the seats: the core has no randomness of its own."""
    count = (failures.count if failures else 0) + 1
    delay = min(policy.max_delay, policy.delay * GROWTH ** min(count - 1, 64))
    return Failures(count, now + delay * (0.9 + 0.2 * spread(salt)))


def spread(salt: int) -> float:
    """A number in [0, 1) that differs from neighbour to neighbour (Knuth's multiplicative hash)."""
    return (salt * 2654435761 % 2**32) / 2**32
