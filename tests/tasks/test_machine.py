"""When tasks run: by the clock, after failures, over reloads, stops and the deaths of masters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from clusterd.tasks import codec
from clusterd.tasks.events import (
    Action,
    Asked,
    Begun,
    Dismiss,
    Ended,
    Event,
    Gone,
    Kill,
    Passed,
    Said,
    Situated,
    Start,
    Terminate,
    Unborn,
)
from clusterd.tasks.machine import FORK, LAST_WORDS, LONGEST, deadline, step
from clusterd.tasks.model import Outcome, Phase, Plan, Tasks

EVERY = Plan("hello:count", publish="users", every=10.0, timeout=30.0)


@dataclass
class World:
    """The processes of runs, which do what they are told, late or not at all."""

    state: Tasks = field(default_factory=Tasks)
    now: float = 100.0
    ordered: dict[int, str] = field(default_factory=dict)  # forks that are on their way
    living: dict[int, str] = field(default_factory=dict)
    said: set[int] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    began: dict[str, list[float]] = field(default_factory=dict)

    def event(self, event: Event) -> None:
        self._perform(self._step(event))

    def _step(self, event: Event) -> list[Action]:
        self.state, actions = step(self.state, event, self.now)
        assert codec.from_json(codec.to_json(self.state)) == self.state
        due = deadline(self.state)
        assert due is None or due > self.now, "a deadline that has passed and was left: the master would spin"
        return actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(task, number, generation):
                    assert generation == self.state.generation and not self.state.stopping
                    assert task not in {*self.ordered.values(), *self.living.values()}, "two runs at once"
                    self.ordered[number] = task
                    self.began.setdefault(task, []).append(self.now)
                case Dismiss(number):
                    if number in self.living:
                        self.die(number)
                case Terminate() | Kill():
                    pass  # `behave` does it, in its time
                case Ended():
                    self.ended.append(action)

    def situate(self, generation: int | None = 1, stopping: bool = False, **plans: Plan) -> None:
        self.event(Situated(generation, plans, stopping, 5.0))

    def fork(self) -> int:
        number = next(iter(self.ordered))
        self.living[number] = self.ordered.pop(number)
        self.event(Begun(number))
        return number

    def say(self, number: int, done: bool = True) -> None:
        self.said.add(number)
        self.event(Said(number, done, "42" if done else "KeyError"))

    def die(self, number: int) -> None:
        self.living.pop(number)
        self.event(Gone(number, "exited with status 0"))

    def run(self, done: bool = True) -> None:
        """One whole run, of what is due now."""
        self.say(self.fork(), done)

    def wait(self, seconds: float | None = None) -> None:
        """Until the next deadline, or exactly so long."""
        due = deadline(self.state)
        if seconds is None:
            assert due is not None
            self.now = due
        else:
            self.now += seconds
        self.event(Passed())

    def replace_master(self, lost: list[Action]) -> None:
        """All but the state is forgotten; what was decided and not done is found out."""
        self.state = codec.from_json(codec.to_json(self.state))
        for action in lost:
            if isinstance(action, Start) and self.state.of_run(action.number):
                self.event(Unborn(action.number))
        for number in list(self.said & self.living.keys()):
            self.event(Said(number, True, "42"))  # it says it again until it is dismissed


def test_first_at_once_then_by_the_clock() -> None:
    """A task runs when it is first known, and then every 10 s from start to start, however long it takes."""
    world = World()
    world.situate(users=EVERY)
    for took in (0.0, 3.0, 9.0):
        number = world.fork()
        world.now += took
        world.say(number)
        world.wait()
    assert world.began["users"] == [100.0, 110.0, 120.0, 130.0]


def test_what_is_due_while_it_runs_is_left_out() -> None:
    """A run of 25 s every 10 s: two are left out, and the third has its time."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    world.wait(25.0)
    assert world.living and not world.ordered
    world.say(number)
    world.wait()
    assert world.began["users"] == [100.0, 130.0]


def test_failures_wait_longer() -> None:
    """The wait grows by half with each failure, to five minutes; a success ends that; both are news once."""
    world = World()
    world.situate(users=EVERY)
    for _ in range(14):
        world.run(done=False)
        world.wait()
    waits = [b - a for a, b in zip(world.began["users"], world.began["users"][1:], strict=False)]
    assert waits[:3] == [10.0, 15.0, 22.5] and waits[-1] == LONGEST
    world.run()
    world.wait()
    assert world.began["users"][-1] - world.began["users"][-2] == 10.0
    assert [e.news for e in world.ended] == [True, *[False] * 13, True]


def test_a_rare_task_is_not_put_off() -> None:
    """What runs once an hour runs once an hour, failing or not."""
    world = World()
    world.situate(users=replace(EVERY, every=3600.0))
    for _ in range(5):
        world.run(done=False)
        world.wait()
    assert world.began["users"] == [100.0 + 3600.0 * n for n in range(6)]


def test_jitter() -> None:
    """Each run begins up to so much late, not always the same, and the times do not drift for it."""
    world = World(Tasks(salt=5))
    world.situate(users=replace(EVERY, jitter=5.0))
    for _ in range(50):
        world.wait()
        world.run()
    late = [began - 100.0 - 10.0 * n for n, began in enumerate(world.began["users"])]
    assert all(0.0 <= each < 5.0 for each in late) and len(set(late)) > 40


def test_timeout() -> None:
    """Who takes too long is told to end, then killed; that is a failure."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    world.now += 30.0
    assert world._step(Passed()) == [Terminate(number)]
    world.now += LAST_WORDS
    assert world._step(Passed()) == [Kill(number)]
    world.living.clear()
    world.event(Gone(number, "killed by SIGKILL"))
    last = world.state.tasks["users"].last
    assert last is not None and last.outcome is Outcome.FAILED
    assert last.text == "it did not end within 30 s (timeout): killed by SIGKILL"


def test_a_fork_that_is_never_answered() -> None:
    """It is killed, and counts as a failure."""
    world = World()
    world.situate(users=EVERY)
    (number,) = world.ordered
    world.now += FORK
    assert world._step(Passed()) == [Kill(number)]
    world.event(Gone(number, "cannot fork"))
    assert world.ended[-1].text == "it did not begin within 60 s: cannot fork"


def test_reload() -> None:
    """The old generation's run ends before the new one's begins, and the new generation's zygote makes that."""
    world = World()
    world.situate(1, users=EVERY)
    old = world.fork()
    world.wait(5.0)
    world.situate(2, users=EVERY)
    world.wait(10.0)
    assert not world.ordered
    world.say(old)
    world.wait()
    run = world.state.tasks["users"].run
    assert run is not None and run.generation == 2 and world.began["users"] == [100.0, 120.0]


def test_reload_changes_times() -> None:
    """Another `every` counts from the last run; another function runs at once, after the old one's run has ended."""
    world = World()
    world.situate(users=EVERY)
    world.run()
    world.wait(2.0)
    world.situate(users=replace(EVERY, every=4.0))
    world.wait()
    assert world.began["users"] == [100.0, 104.0]
    old = world.fork()
    world.situate(2, users=replace(EVERY, call="hello:other"))
    assert not world.ordered
    world.say(old)
    assert world.ordered and world.began["users"] == [100.0, 104.0, 104.0]


def test_reload_changes_the_timeout() -> None:
    """The times stay as they were; a run that goes on keeps the timeout that it began with."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    world.situate(2, users=replace(EVERY, timeout=7.0))
    world.wait(8.0)
    assert world.living
    world.say(number)
    world.wait()
    assert world.began["users"] == [100.0, 110.0]
    world.fork()
    world.now += 7.0
    assert [type(action) for action in world._step(Passed())] == [Terminate]


def test_of_a_run_that_is_over() -> None:
    """What the zygote or the process says of it again, to another master, changes nothing."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    world.say(number)
    before = world.state
    for event in (Begun(number), Said(number, False, "KeyError"), Gone(number, "killed by SIGKILL"), Unborn(number)):
        assert world._step(event) == [] and world.state == before


def test_begun_is_said_once() -> None:
    """Said again, by another master's zygote say, it gives a run no more time, nor one that is to end."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    before = world.state
    world.wait(20.0)
    world.event(Begun(number))
    assert world.state == before
    world.wait()
    ending = world.state
    world.event(Begun(number))
    assert world.state == ending != before


def test_a_task_that_is_removed() -> None:
    """It is forgotten once its run has ended; one that comes back before that goes on."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    world.situate(2)
    assert "users" in world.state.tasks
    world.say(number)
    assert not world.state.tasks and deadline(world.state) is None


def test_on_demand() -> None:
    """A task without times runs when somebody asks, once; asked while it runs, it does not run again."""
    world = World()
    world.situate(users=replace(EVERY, every=None))
    assert deadline(world.state) is None and not world.ordered
    world.event(Asked("users"))
    world.event(Asked("users"))
    world.run()
    assert not world.ordered and len(world.began["users"]) == 1 and world.state.tasks["users"].due is None
    world.event(Asked("nobody"))


def test_on_demand_moves_no_time() -> None:
    """A run that is asked for between two times leaves them as they are."""
    world = World()
    world.situate(users=EVERY)
    world.run()
    world.wait(3.0)
    world.event(Asked("users"))
    world.run()
    world.wait()
    assert world.began["users"] == [100.0, 103.0, 110.0]


def test_nobody_to_fork() -> None:
    """While there is no zygote nothing is due; once there is, what was due runs, once."""
    world = World()
    world.situate(None, users=EVERY)
    world.wait(100.0)
    assert not world.ordered and deadline(world.state) is None
    world.situate(1, users=EVERY)
    world.run()
    assert len(world.began["users"]) == 1


def test_stop() -> None:
    """A run is told to end and has the stop's time for it; nothing begins any more, and it is no failure."""
    world = World()
    world.situate(users=EVERY, other=EVERY)
    number = world.fork()
    (unborn,) = world.ordered
    actions = world._step(Situated(1, {}, True, 5.0))
    assert actions == [Kill(unborn), Terminate(number)] or actions == [Terminate(number), Kill(unborn)]
    world.event(Unborn(unborn))
    assert deadline(world.state) == world.now + 5.0
    world.die(number)
    assert not world.state.busy and [e.outcome for e in world.ended] == [Outcome.STOPPED]
    assert world.state.tasks["users"].failures == 0


def test_another_host_may_run_it() -> None:
    """What runs is ended, in time or by force, and is a failure; nothing begins until this host may run it again."""
    world = World()
    world.situate(users=EVERY)
    number = world.fork()
    actions = world._step(Situated(None, {"users": EVERY}, False, 5.0, "the lease is lost"))
    assert actions == [Terminate(number)]
    assert world._step(Situated(None, {"users": EVERY}, False, 5.0, "the lease is lost")) == []
    assert deadline(world.state) == world.now + LAST_WORDS
    world.now += LAST_WORDS
    assert world._step(Passed()) == [Kill(number)]
    world.die(number)
    (ended,) = world.ended
    assert ended.outcome is Outcome.FAILED and "the lease is lost" in ended.text
    world.wait(100.0)
    assert not world.ordered
    world.situate(1, users=EVERY)
    world.run()


def test_a_master_that_dies_acting() -> None:
    """An order that was written down and not given is given by the next master, once; a result is not told twice."""
    world = World()
    lost = world._step(Situated(1, {"users": EVERY}, False, 5.0))
    assert lost
    world.replace_master(lost)
    number = world.fork()
    world.said.add(number)
    world._step(Said(number, True, "42"))
    world.replace_master([])
    assert not world.living and not world.ended and world.state.tasks["users"].last is not None
    assert world.state.tasks["users"].run is None and len(world.began["users"]) == 1


class Anything(RuleBasedStateMachine):
    """Anything in any order: never two runs of a task at once; then a world that behaves: each has its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.plans: dict[str, Plan] = {"users": EVERY}
        self.world.situate(1, **self.plans)

    @rule(
        generation=st.sampled_from([None, 1, 2, 3]),
        every=st.sampled_from([None, 20.0, 1000.0]),
        names=st.sets(st.sampled_from(["users", "purge"])),
        call=st.sampled_from(["a:b", "hello:count"]),
    )
    def reload(self, generation: int | None, every: float | None, names: set[str], call: str) -> None:
        self.plans = {name: replace(EVERY, every=every, call=call) for name in names}
        self.world.situate(generation, **self.plans)

    @rule(name=st.sampled_from(["users", "purge"]))
    def ask(self, name: str) -> None:
        self.world.event(Asked(name))

    @rule(seconds=st.sampled_from([None, 0.1, 5.0, 70.0]))
    def time(self, seconds: float | None) -> None:
        if seconds is not None or deadline(self.world.state) is not None:
            self.world.wait(seconds)

    @rule(done=st.booleans(), says=st.booleans())
    def process(self, done: bool, says: bool) -> None:
        if self.world.ordered:
            self.world.fork()
        elif self.world.living:
            number = next(iter(self.world.living))
            if says:
                self.world.say(number, done)
            else:
                self.world.die(number)

    @rule()
    def zygote_dies(self) -> None:
        for number in list(self.world.ordered):
            del self.world.ordered[number]
            self.world.event(Unborn(number))

    @rule(performed=st.integers(0, 3), time=st.booleans())
    def master_dies(self, performed: int, time: bool) -> None:
        if time and (due := deadline(self.world.state)) is not None:
            self.world.now = due
        actions = self.world._step(Passed())
        self.world._perform(actions[:performed])
        self.world.replace_master(actions[performed:])

    def behave(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            if self.world.ordered:
                self.world.fork()
            elif self.world.living:
                number = next(iter(self.world.living))
                self.world.say(number)
                if number in self.world.living:
                    self.world.die(number)
            elif (due := deadline(self.world.state)) is not None and due < end:
                self.world.wait()
            else:
                return

    def teardown(self) -> None:
        self.world.situate(9, **self.plans)
        before = self.world.now
        self.behave(1100.0)
        for name, plan in self.plans.items():
            if plan.every is not None:
                assert [t for t in self.world.began.get(name, []) if t >= before], f"{name} never ran again"
            assert self.world.state.tasks[name].failures == 0 or plan.every is None
        self.world.situate(9, True)
        self.behave(100.0)
        assert not self.world.state.busy


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40)


def test_phases_are_names() -> None:
    """What a master writes down is words, which another release can read."""
    assert [phase.value for phase in Phase] == ["starting", "running", "ending"]
    with pytest.raises(ValueError, match="nonsense"):
        Phase("nonsense")
