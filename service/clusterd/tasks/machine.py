"""`step`: one event in, the new state and what to do out. `deadline`: when to come back if nothing happens.

The laws. A task has one run at most, and a run has ended when its process is known to be dead, not before: over
reloads too. A run that is due while another goes on is left out; the times stay those of the first one. After a
failure the wait grows, up to five minutes, or the task's own `every` where that is longer. Whatever a master did not
come to do, the next does: a run that was ordered and never made is ordered again, one that was made is not made twice.
"""

from __future__ import annotations

import math
from dataclasses import replace

from clusterd.tasks.events import (
    Action,
    Asked,
    Begun,
    Dismiss,
    Ended,
    Event,
    Gone,
    Kill,
    Said,
    Situated,
    Start,
    Terminate,
    Unborn,
)
from clusterd.tasks.model import Last, Outcome, Phase, Plan, Run, Task, Tasks

GROWTH = 1.5
LONGEST = 300.0
"""Seconds that a failing task waits at most, unless its own `every` is longer."""
FORK = 60.0
"""Seconds in which a fork is answered; it takes milliseconds, and an import where each process imports for itself."""
LAST_WORDS = 5.0
"""Seconds from SIGTERM, or from its result, to SIGKILL."""
STOPPED = "the service stops"


def step(state: Tasks, event: Event, now: float) -> tuple[Tasks, list[Action]]:
    """Take `event` in at monotonic time `now`; return the state after it and the actions to perform, in order."""
    actions: list[Action] = []
    state = _take(state, event, now, actions)
    for name in sorted(state.tasks):
        state = _look(state, name, now, actions)
    return state, actions


def deadline(state: Tasks) -> float | None:
    """When `Passed` is due if nothing else happens before, or None."""
    times = []
    for task in state.tasks.values():
        if task.run is not None:
            times += [task.run.until] if task.run.until is not None else []
        elif task.due is not None and state.generation is not None and not state.stopping:
            times.append(task.due)
    return min(times, default=None)


# what happens


def _take(state: Tasks, event: Event, now: float, actions: list[Action]) -> Tasks:
    if isinstance(event, Situated):
        return _situate(state, event, now)
    if isinstance(event, Asked):
        task = state.tasks.get(event.task)
        wanted = task is not None and not task.removed and (task.run is None or task.run.settled)
        return state.with_task(event.task, replace(task, asked=True)) if task is not None and wanted else state
    if not isinstance(event, (Begun, Said, Gone, Unborn)):
        return state
    name = state.of_run(event.number)
    task = state.tasks[name] if name is not None else None
    if name is None or task is None or task.run is None:
        return state  # of a run that is over: said again, to another master
    run = task.run
    match event:
        case Begun():
            if run.phase is Phase.STARTING:
                run = replace(run, phase=Phase.RUNNING, since=now, until=now + run.timeout)
            return state.with_task(name, replace(task, run=run))
        case Said(_, done, text):
            if not run.settled:
                outcome = Outcome.DONE if done else Outcome.STOPPED if run.why == STOPPED else Outcome.FAILED
                task = _settle(state, name, outcome, text, now, actions)
            actions.append(Dismiss(run.number))
        case Gone(_, reason):
            if not run.settled:
                outcome = Outcome.STOPPED if run.why == STOPPED else Outcome.FAILED
                task = _settle(state, name, outcome, f"{run.why}: {reason}" if run.why else reason, now, actions)
            task = _planned(replace(task, run=None), run, state.salt, name, now)
        case _:  # Unborn: as if it had not been ordered; for whom it was asked, or due, it is so still
            task = replace(task, run=None, asked=True)
    return state.with_task(name, task)


def _settle(state: Tasks, name: str, outcome: Outcome, text: str, now: float, actions: list[Action]) -> Task:
    """The outcome is known; the process may still be there."""
    task = state.tasks[name]
    assert task.run is not None
    run = task.run
    failures = {Outcome.DONE: 0, Outcome.FAILED: task.failures + 1, Outcome.STOPPED: task.failures}[outcome]
    news = failures == 1 if outcome is Outcome.FAILED else outcome is Outcome.DONE and task.failures > 0
    actions.append(Ended(name, run.number, outcome, text, news))
    until = min(run.until, now + LAST_WORDS) if run.phase is Phase.ENDING and run.until else now + LAST_WORDS
    run = replace(run, settled=True, phase=Phase.ENDING, until=None if run.killed else until)
    return replace(
        task, run=run, failures=failures, last=Last(run.number, outcome, text, max(0.0, now - run.since), now)
    )


def _planned(task: Task, run: Run, salt: int, name: str, now: float) -> Task:
    """When it is due after `run`."""
    every = task.plan.every
    if every is None or task.removed:
        return replace(task, slot=None, due=None)
    slot = task.slot if task.slot is not None else run.since
    if slot <= now:  # what was due meanwhile is left out; a run that was asked for moves nothing
        slot += every * (math.floor((now - slot) / every) + 1)
    if task.failures > 1:
        wait = min(max(every, LONGEST), every * GROWTH ** min(task.failures - 1, 64))
        slot = max(slot, run.since + wait)
    return _due(replace(task, slot=slot), salt, name, run.number)


def _due(task: Task, salt: int, name: str, number: int) -> Task:
    if task.slot is None:
        return replace(task, due=None)
    return replace(task, due=task.slot + task.plan.jitter * _spread(salt, name, number))


def _spread(salt: int, name: str, number: int) -> float:
    """A number in [0, 1) that differs from run to run."""
    mixed = salt + number * 2654435761
    for byte in name.encode():
        mixed = (mixed ^ byte) * 16777619 % 2**32
    return mixed * 2654435761 % 2**32 / 2**32


def _situate(state: Tasks, event: Situated, now: float) -> Tasks:
    state = replace(state, generation=event.generation, stopping=event.stopping, grace=event.grace, lost=event.lost)
    if event.stopping:
        return state  # what goes on is ended by the plans it began with
    for name in state.tasks.keys() | event.plans.keys():
        old, plan = state.tasks.get(name), event.plans.get(name)
        if plan is None:
            assert old is not None
            gone = replace(old, removed=True, slot=None, due=None, asked=False)
            state = state.with_task(name, gone if old.run is not None else None)
        elif old is None or old.removed or (old.plan.call, old.plan.publish) != (plan.call, plan.publish):
            task = replace(old, plan=plan, removed=False) if old is not None else Task(plan)
            # Not by the slot alone: the end of the old function's run would leave out what was due meanwhile.
            task = replace(task, asked=task.asked or (task.run is not None and plan.every is not None))
            task = replace(task, slot=now if plan.every is not None else None)
            state = state.with_task(name, _due(task, state.salt, name, state.next))
        elif old.plan != plan:
            state = state.with_task(name, _changed(old, plan, state, name, now))
    return state


def _changed(task: Task, plan: Plan, state: Tasks, name: str, now: float) -> Task:
    """Other times for the same function: the new ones count from its last run."""
    if plan.every != task.plan.every:
        began = task.last.ended - task.last.seconds if task.last is not None else now
        slot = None if plan.every is None else max(now, began + plan.every)
        task = replace(task, slot=slot)
    return _due(replace(task, plan=plan), state.salt, name, state.next)


# what follows


def _look(state: Tasks, name: str, now: float, actions: list[Action]) -> Tasks:
    task = state.tasks[name]
    run = task.run
    if run is None:
        if task.removed:
            return state.with_task(name, None)
        wanted = task.asked or (task.due is not None and task.due <= now)
        if not wanted or state.stopping or state.generation is None:
            return state
        run = Run(state.next, state.generation, now, task.plan.timeout, task.plan.publish, until=now + FORK)
        actions.append(Start(name, run.number, run.generation))
        return replace(state, next=state.next + 1).with_task(name, replace(task, run=run, asked=False))
    if state.stopping and run.phase is not Phase.ENDING:
        run = _end(run, STOPPED, now + state.grace, actions)
    elif state.lost and run.phase is not Phase.ENDING:
        run = _end(run, state.lost, now + LAST_WORDS, actions)
    elif run.until is not None and run.until <= now:
        if run.phase is Phase.RUNNING:
            run = _end(run, f"it did not end within {run.timeout:g} s (timeout)", now + LAST_WORDS, actions)
        else:
            why = run.why or ("" if run.settled else f"it did not begin within {FORK:g} s")
            run = replace(run, phase=Phase.ENDING, killed=True, until=None, why=why)
            actions.append(Kill(run.number))
    return state.with_task(name, replace(task, run=run))


def _end(run: Run, why: str, until: float, actions: list[Action]) -> Run:
    actions.append(Terminate(run.number) if run.phase is Phase.RUNNING else Kill(run.number))
    return replace(run, phase=Phase.ENDING, why=why, until=until)
