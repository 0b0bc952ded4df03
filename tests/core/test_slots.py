"""Slots: who gets which, where new connections go, and where the usher stands in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clusterd.core.model import BOOT, NO_SLOT, SPARE, Boot, Cluster, Failures, Generation, Mode, Phase, Policy, Worker
from clusterd.core.slots import assign, live, usher

FOUR = Policy(workers=3, slots=4)


def worker(number: int, seat: int, phase: Phase = Phase.SERVING, **changes: object) -> Worker:
    """In its seat's own slot, of generation 1, accepting if it serves."""
    there = Worker(number, seat, seat, 1, since=0.0, phase=phase, accepting=phase is Phase.SERVING, ready_at=0.0)
    return replace(there, **changes)  # type: ignore[arg-type]


def cluster(*workers: Worker, policy: Policy = FOUR, boot: Boot = Boot.UP, **changes: object) -> Cluster:
    """Generation 1 is current, and these are all the workers there are."""
    generations = {1: Generation(1, policy, 0.0, boot), 2: Generation(2, policy, 0.0)}
    there = Cluster(generations, {w.id: w for w in workers}, current=1, next_worker=100)
    return replace(there, **changes)  # type: ignore[arg-type]


ALL = tuple(worker(10 + seat, seat) for seat in range(3))


# assign


def test_a_seat_has_its_own_slot() -> None:
    """Whoever else is there; seats beyond the slots go round."""
    assert [assign(cluster(*ALL), seat, FOUR) for seat in range(6)] == [0, 1, 2, 3, 0, 1]


FRESH = replace(FOUR, fresh_slots=True)


def test_a_fresh_slot_is_the_first_that_no_process_has() -> None:
    """Neither one that serves nor one on its way in or out; with none left the seat's own has to do."""
    three = cluster(ALL[0], worker(20, 1, Phase.DRAINING), worker(21, 3, Phase.STARTING))
    assert assign(three, 0, FRESH) == 2
    assert assign(cluster(), 1, FRESH) == 0
    assert assign(cluster(*ALL, worker(20, 3)), 2, FRESH) == 2


@pytest.mark.parametrize(
    ("there", "slot"),
    [
        ({}, 3),
        ({"slot": 3}, 1),  # that of another is nothing to it
        ({"accepting": False}, 1),  # who does not accept takes no connection from its successor
        ({"phase": Phase.SERVING}, 1),  # who is not to leave: a rollout goes on beside it
        ({"reason": ""}, 1),  # who leaves as it should is quick about it
    ],
    ids=["hangs and accepts", "elsewhere", "accepts no more", "serves", "drains"],
)
def test_the_slot_of_who_hangs_and_accepts_is_left_to_it(there: dict[str, object], slot: int) -> None:
    """Only then: a successor in another slot means that the usher has to look after this one."""
    hung = worker(20, 1, **({"phase": Phase.DRAINING, "accepting": True, "reason": "hangs"} | there))
    leaves = worker(21, 1, Phase.DRAINING)
    assert assign(cluster(ALL[0], ALL[2], leaves, hung), 1, replace(FOUR, slots=5)) == slot


# live


def test_new_connections_go_to_who_accepts() -> None:
    """And to nobody else: one that drains may accept still, and one that starts will soon."""
    drains = worker(20, 3, Phase.DRAINING, accepting=True)
    starts = worker(21, 1, Phase.STARTING)
    deaf = worker(22, 1, accepting=False)
    assert live(cluster(ALL[2], ALL[0], drains, starts, deaf)) == (0, 2)


def test_while_nobody_accepts_they_go_to_who_will_first() -> None:
    """Not to one on its way out, nor to one of a generation that nobody wants there."""
    left = worker(20, 1, Phase.DRAINING)
    old = worker(21, 2, Phase.READY, generation=2)
    assert live(cluster(worker(22, 2, Phase.READY), worker(23, 0, Phase.STARTING), left)) == (0, 2)
    assert live(cluster(worker(23, 0, Phase.STARTING), old)) == (0,)


@pytest.mark.parametrize(("workers", "slots", "found"), [(3, 4, (0, 1, 2)), (4, 2, (0, 1)), (0, 4, (0,))])
def test_while_nobody_is_there_they_wait_where_the_first_will_be(
    workers: int, slots: int, found: tuple[int, ...]
) -> None:
    """A slot for each worker, as far as there are so many; one at least."""
    assert live(cluster(policy=replace(FOUR, workers=workers, slots=slots))) == found


# usher


def test_slots_that_nobody_accepts_from_are_relayed() -> None:
    """While all serve that is what is left over; without anything left over there is no usher."""
    assert usher(cluster(*ALL)) == (Mode.RELAY, (3,))
    assert usher(cluster(*ALL, policy=replace(FOUR, slots=3))) == (Mode.OFF, ())
    drains = worker(20, 3, Phase.DRAINING, accepting=True)
    assert usher(cluster(*ALL, drains)) == (Mode.OFF, ()), "who drains and accepts has it still"


@pytest.mark.parametrize(
    ("second", "slots"),
    [
        (worker(20, 1, Phase.STARTING), (3,)),
        (worker(20, 1, Phase.READY), (3,)),
        (worker(20, 1, accepting=False), (3,)),  # told to serve, and has not said that it does
        (worker(20, 1, Phase.READY, generation=2), (1, 3)),  # prepared by a rollout: its time is not known
        (worker(20, 1, accepting=False, generation=2), (3,)),  # committed
        (worker(20, 1, Phase.READY, killed=True), (1, 3)),
        (worker(20, 1, Phase.DRAINING), (1, 3)),
    ],
    ids=["starts", "is ready", "was told", "is prepared", "is committed", "is killed", "drains"],
)
def test_a_slot_whose_worker_is_on_its_way_is_not_relayed(second: Worker, slots: tuple[int, ...]) -> None:
    """Its connections wait those milliseconds, in its queue, and are spread as they should be."""
    assert usher(cluster(ALL[0], ALL[2], second, failures={1: Failures(1, 5.0)})) == (Mode.RELAY, slots)


def test_the_own_slot_of_who_serves_elsewhere_is_relayed() -> None:
    """It is the successor of one that hung and accepted: no other comes to where that one was."""
    assert usher(cluster(ALL[0], worker(20, 1, slot=3), ALL[2])) == (Mode.RELAY, (1,))


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({}, (3,)),
        ({"failures": {1: Failures(1, 5.0)}}, (1, 3)),
        ({"failures": {0: Failures(1, 5.0)}}, (3,)),
        ({"failures": {BOOT: Failures(1, 5.0)}}, (1, 3)),
        ({"boot": Boot.BOOTING}, (1, 3)),
        ({"boot": Boot.LOST}, (1, 3)),
        ({"policy": FRESH}, (1, 3)),
    ],
    ids=["at once", "backs off", "another does", "the zygote does", "boots", "is lost", "takes any slot"],
)
def test_a_slot_whose_worker_is_forked_at_once_is_not_relayed(
    changes: dict[str, object], slots: tuple[int, ...]
) -> None:
    """One whose worker has to wait, or for whom nobody can fork, is."""
    assert usher(cluster(ALL[0], ALL[2], **changes)) == (Mode.RELAY, slots)  # type: ignore[arg-type]


def test_seats_share_slots() -> None:
    """A seat beyond the slots is to come where it goes round to."""
    three = replace(FOUR, workers=3, slots=2)
    first, third = worker(10, 0), worker(12, 2, slot=0)
    assert usher(cluster(first, third, policy=three)) == (Mode.OFF, ())
    second = worker(11, 1)
    assert usher(cluster(second, policy=replace(FOUR, workers=4, slots=3), failures={0: Failures(1, 5.0)})) == (
        Mode.OFF,
        (),
    ), "seats 2 and 3 are about to be filled, in slots 2 and 0"


def test_a_spare_is_nowhere() -> None:
    """It is in no slot, and no reason to wait for one."""
    spare = worker(20, SPARE, Phase.READY, slot=NO_SLOT)
    spared = replace(FOUR, spares=1)
    assert usher(cluster(ALL[0], ALL[2], spare, policy=spared, failures={1: Failures(1, 5.0)})) == (Mode.RELAY, (1, 3))


def test_while_nobody_serves() -> None:
    """They wait for the first boot; once that has failed they are refused, unless they are to wait on."""
    starts = worker(20, 1, Phase.STARTING)
    hung = worker(21, 2, Phase.DRAINING, accepting=True)
    assert usher(cluster(starts)) == (Mode.OFF, ())
    assert usher(cluster(starts, hung, problem="0/3 workers")) == (Mode.REFUSE, (0, 1, 3))
    waits = replace(FOUR, waits=True)
    assert usher(cluster(starts, problem="0/3 workers", policy=waits)) == (Mode.OFF, ())


def test_at_a_stop_nobody_stands_in() -> None:
    """What comes then waits for the next start, in the sockets."""
    assert usher(cluster(*ALL, stopping=True)) == (Mode.OFF, ())
    assert usher(cluster(stopping=True, problem="0/3 workers")) == (Mode.OFF, ())
