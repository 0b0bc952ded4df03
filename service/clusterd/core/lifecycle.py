"""The tables: what may follow what.

Laws
1. A worker accepts only after it was READY and was told to serve.
2. A worker that drains never serves again; its seat gets another worker.
3. A rollout serves nothing before every worker of its batch is READY and has soaked.
4. A rollout that moved no seat is refused and costs nothing; one that moved seats is returned.
5. A worker may repeat what it said: a new master asks. Repetition changes nothing.

An illegal move raises and changes nothing (the shape is h11's).
"""

from __future__ import annotations

from clusterd.core.model import Phase, Stage


class IllegalMove(Exception):
    """Somebody did what the table does not have."""


WORKER: dict[tuple[Phase, str], Phase] = {
    (Phase.STARTING, "ready"): Phase.READY,
    (Phase.READY, "ready"): Phase.READY,
    (Phase.SERVING, "ready"): Phase.SERVING,
    (Phase.DRAINING, "ready"): Phase.DRAINING,
    (Phase.READY, "serve"): Phase.SERVING,
    (Phase.SERVING, "serving"): Phase.SERVING,
    (Phase.DRAINING, "serving"): Phase.DRAINING,
    (Phase.SERVING, "drain"): Phase.DRAINING,
    (Phase.DRAINING, "drain"): Phase.DRAINING,
    (Phase.STARTING, "draining"): Phase.DRAINING,
    (Phase.READY, "draining"): Phase.DRAINING,
    (Phase.SERVING, "draining"): Phase.DRAINING,
    (Phase.DRAINING, "draining"): Phase.DRAINING,
}

ROLLOUT: dict[tuple[Stage, str], Stage] = {
    (Stage.PREPARING, "batch ready"): Stage.SOAKING,
    (Stage.SOAKING, "soaked"): Stage.COMMITTED,
    (Stage.COMMITTED, "batch settled"): Stage.PREPARING,
    (Stage.PREPARING, "failed"): Stage.RETURNING,
    (Stage.SOAKING, "failed"): Stage.RETURNING,
    (Stage.COMMITTED, "failed"): Stage.RETURNING,
}


def move_worker(phase: Phase, what: str) -> Phase:
    """The phase after `what`. Raises IllegalMove."""
    try:
        return WORKER[phase, what]
    except KeyError:
        raise IllegalMove(f"a worker that is {phase} cannot take {what!r}") from None


def move_rollout(stage: Stage, what: str) -> Stage:
    """The stage after `what`. Raises IllegalMove."""
    try:
        return ROLLOUT[stage, what]
    except KeyError:
        raise IllegalMove(f"a rollout that is {stage} cannot take {what!r}") from None
