"""Everything but the keeper is killed at random, again and again, with reloads in between; then it is left alone."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground, descriptors, gone


def kill_at_random(seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    with Foreground(workers=3) as run:
        run.start()
        assert run.process is not None
        settled(run)
        before = held(run)
        end, killed = time.monotonic() + seconds, 0
        while time.monotonic() < end:
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
        assert killed >= seconds, "the test did not kill"
        run.wait_for("it to converge", run.at_rest, timeout=HANG)
        # As at the start, for the comparison: a generation that serves and one that is parked.
        for _ in range(2):
            done = run.clusterd("reload")
            assert done.returncode == 0, done.stderr
        settled(run)
        assert held(run) == before, "a leak"
        everything = run.everything()
        run.process.terminate()
        assert run.wait() == 0
        assert gone(everything) == []


def held(run: Foreground) -> list[dict[str, int]]:
    """The descriptors of keeper and master at rest: the fewest seen, without the connection that asked for the pid."""
    assert run.process is not None
    pids = (run.process.pid, run.status()["master"]["pid"])
    seen = []
    for _ in range(10):
        seen.append([descriptors(pid) for pid in pids])
        time.sleep(0.02)
    return min(seen, key=lambda found: sum(sum(kinds.values()) for kinds in found))


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
    """Eight seconds of it: all workers of one generation serve, nothing leaks, and a stop leaves no process."""
    kill_at_random(8, seed=1)


@pytest.mark.proof
@pytest.mark.parametrize("seed", [2, 3])
def test_random_kills_for_long(seed: int) -> None:
    """The same for thirty seconds, in other orders."""
    kill_at_random(30, seed)
