"""From every state on the way, after any interruption, the core converges."""

from __future__ import annotations

import pytest
from faults import FAULTS
from played import POLICIES, at_rest, started
from world import World

from clusterd.core.actions import Outcome
from clusterd.core.events import (
    Asked,
    StopAsked,
    TwinGone,
    TwinUp,
    ZygoteGone,
)
from clusterd.core.model import Kind, Policy, Twin


def prefixes(policy: Policy, after: Policy | None = None) -> list[World]:
    """Every state that a start and then a reload, to the policy `after`, go through."""
    world = World()
    world.event(Asked(Kind.START, policy))
    found = [world.copy()]
    for kind in (None, Kind.RELOAD):
        if kind:
            world.event(Asked(kind, after or policy))
        while world.pending or world.pass_time():
            found.append(world.copy())
            if world.pending:
                world.deliver(0)
            found.append(world.copy())
    return found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_every_interrupted_prefix_converges(policy: Policy, fault: str) -> None:
    """Whatever happens at whatever point of a start or a reload: every seat ends up served by one generation."""
    for world in prefixes(policy):
        starting = world.cluster.current is None
        FAULTS[fault](world)
        world.quiesce()
        if world.exited is not None:
            assert starting and world.exited == 1  # only a first start may end the service
            assert not world.cluster.workers
        else:
            scaled = world.cluster.scaled
            at_rest(world, scaled.workers if scaled is not None else policy.workers)
        assert not [f for f in world.finished if f.outcome is Outcome.STOPPED]


def test_a_twin_that_lived_is_always_followed_by_another() -> None:
    """Killed now and then, a twin is always made anew; dying as soon as it is there, it is given up by this zygote."""
    world = started(POLICIES["all"])
    for _ in range(10):
        world.now += 60
        world.event(TwinGone(1))
        world.quiesce()
        assert world.cluster.generations[1].twin is Twin.UP
    for _ in range(10):
        world.event(TwinGone(1))
        world.pending = [TwinUp(1)] if world.cluster.generations[1].twin is Twin.ASKED else []
        world.quiesce()
    assert world.cluster.generations[1].twin is Twin.NONE
    world.event(ZygoteGone(1, "killed by SIGKILL"))
    world.quiesce()
    assert world.cluster.generations[1].twin is Twin.UP


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_master_that_dies_acting_costs_nothing(policy: Policy) -> None:
    """A master dies with its decision written down and any part of it carried out: the next one carries it out."""
    for before in prefixes(policy):
        for performed in range(100):
            world = before.copy()
            if not world.die_acting(0, performed):
                break
            world.quiesce()
            assert world.exited is None and not [f for f in world.finished if f.outcome is not Outcome.DONE]
            at_rest(world, policy.workers)


def test_a_master_that_comes_late_says_only_what_is_true_by_then() -> None:
    """What was due meanwhile is decided first: nobody is told to serve and to drain in one breath."""
    for world in prefixes(POLICIES["two"], POLICIES["spares one"]):
        if world.cluster.current is None:
            continue  # a first start that takes so long has failed
        FAULTS["master replaced late"](world)
        world.quiesce()
        at_rest(world, world.cluster.policy.workers)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_master_that_dies_stopping_is_followed_by_one_that_stops(policy: Policy) -> None:
    """The same at every point of a stop: it ends with status 0, and no worker."""
    stopping = started(policy)
    stopping.event(StopAsked())
    while stopping.exited is None:
        for performed in range(100):
            world = stopping.copy()
            if not world.die_acting(0, performed):
                break
            world.quiesce()
            assert world.exited == 0 and not world.cluster.workers
        stopping.deliver(0)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_stop_in_every_prefix_leaves_nothing(policy: Policy) -> None:
    """A stop at whatever point ends with status 0 and no worker."""
    for world in prefixes(policy):
        world.event(StopAsked())
        world.quiesce()
        assert world.exited == 0 and not world.cluster.workers
