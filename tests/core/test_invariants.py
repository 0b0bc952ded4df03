"""What must hold is checked: one state or step that breaks it for each, and one beside it that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from states import ALL, NOW, THREE, draft, generation, rollout, worker

from clusterd.core import invariants
from clusterd.core.actions import Action, Drain, Fork, Serve
from clusterd.core.invariants import Broken
from clusterd.core.model import NO_SLOT, SPARE, Boot, Cluster, Generation, Kind, Phase, Stage, Worker


def state(*members: Worker | Generation, **changes: object) -> Cluster:
    return draft(*members, **changes).cluster


SECOND = generation(2)
AFTER = worker(20, 0, generation=2, since=NOW + 1.0)
"""Serves generation 2 since a moment after a rollout to it began."""


def changing(*members: Worker | Generation, stage: Stage = Stage.PREPARING, **changes: object) -> Cluster:
    """A rollout to generation 2 that began NOW."""
    return state(SECOND, *members, rollout=replace(rollout(stage), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "sound", "told"),
    [
        (state(worker(10, 0, generation=7)), state(ALL[0]), "worker 10 has no generation 7"),
        (state(worker(10, 0, slot=8)), state(worker(10, 0, slot=7)), "worker 10 in slot 8"),
        (state(worker(10, 0, slot=-1)), state(worker(10, 0, slot=0)), "worker 10 in slot -1"),
        (
            state(worker(10, SPARE, Phase.READY, slot=0)),
            state(worker(10, SPARE, Phase.READY, slot=NO_SLOT)),
            "worker 10 in slot 0",
        ),
        (
            state(worker(10, SPARE, slot=NO_SLOT)),
            state(worker(10, SPARE, Phase.DRAINING, slot=NO_SLOT)),
            "spare 10 serves",
        ),
        (
            state(worker(10, 0, Phase.READY, accepting=True)),
            state(worker(10, 0, Phase.DRAINING, accepting=True)),
            "worker 10 accepts while ready",
        ),
        (
            state(worker(10, 0, dead=True)),
            state(worker(10, 0, dead=True, accepting=False)),
            "worker 10 is dead and accepts",
        ),
        (
            state(worker(10, 0, ready_at=None)),
            state(worker(10, 0, Phase.STARTING, ready_at=None)),
            "worker 10 never ready",
        ),
        (
            state(ALL[0], worker(20, 0)),
            state(ALL[0], worker(20, 0, killed=True), worker(21, 0, spent="old"), worker(22, 0, Phase.DRAINING)),
            "2 workers of generation 1 in seat 0",
        ),
        (state(current=3), state(current=3, stopping=True), "no current generation 3"),
        (state(ALL[0], stopped=True, stopping=True), state(stopped=True, stopping=True), "stopped with workers"),
        (state(rollout=rollout(Stage.PREPARING)), changing(), "rollout to unknown generation 2"),
        (changing(base=3), changing(base=None), "rollout from unknown generation 3"),
        (changing(moved=2, upto=1), changing(moved=2, upto=2), "rollout moved beyond its batch"),
        (changing(moved=-1), changing(moved=0), "rollout moved beyond its batch"),
        (changing(AFTER), changing(replace(AFTER, since=NOW)), r"workers \[20\] serve before the commit"),
        (changing(AFTER, stage=Stage.SOAKING), changing(AFTER, stage=Stage.COMMITTED), "serve before the commit"),
        (changing(AFTER), changing(AFTER, moved=1), "serve before the commit"),
        (changing(AFTER, kind=Kind.TRY, moved=1), changing(AFTER, moved=1), "serve before the commit"),
        (changing(AFTER), changing(replace(AFTER, phase=Phase.READY, accepting=False)), "serve before the commit"),
        (changing(AFTER), changing(replace(AFTER, generation=1)), "serve before the commit"),
    ],
)
def test_states(broken: Cluster, sound: Cluster, told: str) -> None:
    """Each law is held, and holds nothing else up."""
    invariants.check(sound)
    with pytest.raises(Broken, match=told):
        invariants.check(broken)


@pytest.mark.parametrize(
    ("broken", "sound", "told"),
    [
        ([Serve(10), Serve(10)], [Serve(10), Serve(11)], "told to serve twice"),
        ([Drain(10, 5.0, 30.0), Serve(10)], [Drain(10, 5.0, 30.0), Serve(11)], "told to serve and to drain at once"),
        ([Fork(20, 2, 0)], [Fork(20, 1, 0)], r"workers forked by generations \{2\}, whose zygotes are not up"),
    ],
)
def test_steps(broken: Sequence[Action], sound: Sequence[Action], told: str) -> None:
    """So is each law of what is done."""
    after = state(generation(2, THREE, boot=Boot.BOOTING), *ALL)
    invariants.check_step(after, sound)
    with pytest.raises(Broken, match=told):
        invariants.check_step(after, broken)
