"""Anything in any order, and then a world that behaves: the core converges."""

from __future__ import annotations

import pytest
from faults import FAULTS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from played import POLICIES, at_rest
from world import World

from clusterd.core.actions import Outcome
from clusterd.core.events import Asked
from clusterd.core.model import Cluster, Kind, Policy


class Anything(RuleBasedStateMachine):
    """Anything in any order; at the end the world behaves, and the cluster converges."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(cluster=Cluster(strict=False))
        self.world.event(Asked(Kind.START, Policy(workers=3, slots=8)))

    @rule(index=st.integers(0, 50))
    def deliver(self, index: int) -> None:
        if self.world.pending:
            # Each process speaks in order; who speaks next is anybody's guess.
            event = self.world.pending[index % len(self.world.pending)]
            who = (getattr(event, "worker", None), getattr(event, "generation", None))
            first = next(
                i
                for i, e in enumerate(self.world.pending)
                if (getattr(e, "worker", None), getattr(e, "generation", None)) == who
            )
            self.world.deliver(first)

    @rule()
    def time(self) -> None:
        self.world.pass_time()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 10.0, 60.0]))
    def a_while(self, seconds: float) -> None:
        """Without it hardly any change would ever come to its end, and the next begin from there."""
        if self.world.exited is None:
            self.world.go_on(seconds)

    @rule(fault=st.sampled_from(sorted(FAULTS)))
    def fault(self, fault: str) -> None:
        FAULTS[fault](self.world)

    @rule(policy=st.sampled_from(sorted(POLICIES)))
    def reload(self, policy: str) -> None:
        chosen = POLICIES[policy]
        if chosen.slots == 8:  # the number of slots never changes under a running master
            self.world.event(Asked(Kind.RELOAD, chosen))

    @rule(generations=st.frozensets(st.integers(1, 12), max_size=3))
    def bad_code(self, generations: frozenset[int]) -> None:
        self.world.broken = generations

    @rule(generations=st.frozensets(st.integers(1, 12), max_size=3))
    def bad_import(self, generations: frozenset[int]) -> None:
        self.world.unbootable = generations

    @rule(generations=st.frozensets(st.integers(1, 12), max_size=2))
    def hanging_code(self, generations: frozenset[int]) -> None:
        self.world.deaf = generations

    @invariant()
    def answered_once_and_returned_at_most_once(self) -> None:
        """One answer each; a second is only that a change that was done did not last."""
        answers: dict[int, list[Outcome]] = {}
        for f in self.world.finished:
            answers.setdefault(f.number, []).append(f.outcome)
        for outcomes in answers.values():
            assert len(outcomes) == 1 or outcomes == [Outcome.DONE, Outcome.RETURNED], answers

    def teardown(self) -> None:
        # The world need not get better for whoever asked to be answered.
        self.world.go_on(3600.0)
        asked = range(1, self.world.cluster.next_rollout)
        assert {f.number for f in self.world.finished} == set(asked)
        self.world.broken = self.world.unbootable = self.world.deaf = frozenset()
        self.world.quiesce()
        at_rest(self.world, self.world.cluster.policy.workers)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=150, stateful_step_count=60)


@pytest.mark.proof
def test_anything_at_length(request: pytest.FixtureRequest) -> None:
    """The same for longer; with `--hypothesis-seed=N` with examples nobody has tried before."""
    fixed = request.config.getoption("--hypothesis-seed") is None
    at_length = settings(max_examples=500, stateful_step_count=100, derandomize=fixed, print_blob=True)
    run_state_machine_as_test(Anything, settings=at_length)  # type: ignore[no-untyped-call]
