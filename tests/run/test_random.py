"""Everything but the keeper is killed at random, again and again, with reloads in between; then it is left alone."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.run.foreground import Foreground, descriptors, gone


def kill_at_random(kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with Foreground(workers=3) as run:
        run.start()
        assert run.process is not None
        settled(run)
        before = held(run)
        killed = 0
        while killed < kills:
            time.sleep(chance.uniform(0.1, 0.4))
            status = run.status()
            generations = status["generations"]
            kinds = {
                "master": [status["master"]["pid"]],
                "zygote": [g["zygote"] for g in generations],
                "twin": [g["twin"] for g in generations],
                "worker": [w["pid"] for w in status["workers"]],
                "reload": [],
            }
            kind = chance.choice(sorted(kinds))
            if kind == "reload":
                run.process.send_signal(signal.SIGHUP)
            elif pids := [pid for pid in kinds[kind] if pid]:
                try:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed += 1
        run.wait_for("a master", lambda: run.status()["state"] != "unreachable")  # a dying one would take them with it
        # The keeper passes signals on in their order, SIGHUP before these: the last reload has been asked for by then.
        for number, wanted in ((signal.SIGTTIN, 4), (signal.SIGTTOU, 3)):
            run.process.send_signal(number)
            run.wait_for("that to be read", lambda n=wanted: run.status().get("wanted") == n)
        run.wait_for("it to converge", run.at_rest)
        # As at the start, for the comparison: a generation that serves and one that is parked.
        for _ in range(2):
            done = run.clusterd("reload")
            assert done.returncode == 0, done.stderr
        settled(run)
        run.wait_for(f"no more than {before} (a leak does not go away)", lambda: no_more(held(run), before))
        everything = run.everything()
        run.process.terminate()
        assert run.wait() == 0
        assert gone(everything) == []


def held(run: Foreground) -> list[dict[str, int]]:
    """The descriptors of keeper and master at rest: the fewest seen, without the connection that asked for the pid."""
    assert run.process is not None
    pids = (run.process.pid, run.status()["master"]["pid"])
    seen = []
    for _ in range(30):
        seen.append([descriptors(pid) for pid in pids])
        time.sleep(0.02)
    return min(seen, key=lambda found: sum(sum(kinds.values()) for kinds in found))


def no_more(now: list[dict[str, int]], before: list[dict[str, int]]) -> bool:
    """Fewer are no leak: a master that stood still while it was looked at had the connection that asked it."""
    return all(
        count <= then.get(kind, 0) for kinds, then in zip(now, before, strict=True) for kind, count in kinds.items()
    )


def settled(run: Foreground) -> None:
    """Two generations with a zygote and a twin each, workers of the one, and nothing else."""
    if run.status()["previous"] is None:
        assert run.clusterd("reload").returncode == 0
    run.wait_for("it to be at rest", run.at_rest)
    run.wait_for(
        "both generations to have a twin",
        lambda: [bool(g["zygote"] and g["twin"]) for g in run.status()["generations"]] == [True, True],
    )
    run.wait_for("every process to be accounted for", run.accounted_for)


def test_random_kills() -> None:
    """Twenty of them: all workers of one generation serve, nothing leaks, and a stop leaves no process."""
    kill_at_random(20, seed=1)


@pytest.mark.proof
@pytest.mark.parametrize("seed", [2, 3])
def test_random_kills_for_long(seed: int) -> None:
    """Eighty, in other orders."""
    kill_at_random(80, seed)
