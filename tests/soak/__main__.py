"""`make soak`: faults at random under load, for as long as one likes; what may not fail has to be answered.

Requests of two kinds run all the time, on kept connections and on a connection each. A request may fail only when its
connection had been accepted by a process that a fault ended: these are counted as they are ended, and no more may fail
in all. Now and then everything has to come to rest: all slots served, every process accounted for.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.clients import Asked, asking
from tests.run.foreground import Foreground
from tests.run.test_random import held, no_more, settled
from tests.soak.faults import FAULTS, Cluster
from tests.soak.plan import Step, plan


class Found(Exception):
    """Something that must not be."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}: `make soak SEED={options.seed}` does the same again", flush=True)
    past: list[Step] = []
    with Cluster() as run:
        try:
            asked = soak(run, options.seed, options.minutes * 60, past)
        except BaseException as e:
            print(f"--- what it said\n{run.said()[-20_000:]}\n--- what was done\n" + "\n".join(map(str, past[-60:])))
            print(f"--- seed {options.seed}, step {len(past)}: {type(e).__name__}: {e}", flush=True)
            return 1
        allowed = run.allowed
    failed = sum(asked.failures.values())
    print(f"{len(past)} faults; {sum(asked.answers.values())} requests, {failed} failed of {allowed} that might have")
    return 0


def soak(run: Cluster, seed: int, seconds: float, past: list[Step]) -> Asked:
    run.start()
    settled(run)
    before = held(run)
    with asking(("127.0.0.1", run.port), kept=6, single=6) as asked:
        end = time.monotonic() + seconds
        for step in plan(seed, sorted(FAULTS)):
            if time.monotonic() >= end:
                break
            past.append(step)
            time.sleep(step.after)
            FAULTS[step.fault](run, step.chance)
            if step.settles:
                rest(run)
                check(run, asked)
        rest(run)
    check(run, asked)
    back(run)
    run.wait_for(f"no more than {before} (a leak does not go away)", lambda: no_more(held(run), before))
    return asked


def rest(run: Cluster) -> None:
    """Every wanted worker serves, and no process is left over."""
    run.wait_for("it to come to rest", lambda: wanted_serve(run) and run.accounted_for())
    # Who is stopped or blocked serves, for all that is known, until it is found to hang.
    run.struck &= {None, *(w["pid"] for w in run.status().get("workers", []))}


def wanted_serve(run: Foreground) -> bool:
    status = run.status()
    serving = [w for w in status.get("workers", []) if w["state"] == "serving"]
    one = {w["generation"] for w in status.get("workers", [])} == {status.get("generation")}
    return status["state"] == "serving" and one and len(serving) == status["wanted"] == len(status["workers"])


def check(run: Cluster, asked: Asked) -> None:
    failed, allowed = sum(asked.failures.values()), run.allowed
    if failed > allowed:
        raise Found(f"{failed} requests failed, {allowed} might have: {dict(asked.failures)}")


def back(run: Cluster) -> None:
    """To what it was at the start: as many workers as the file says, one generation that serves and one parked."""
    while run.clients:
        run.clients.pop().close()
    done = run.clusterd_on("scale", "file")
    if done.returncode:
        raise Found(f"scaling after it all: {done.stderr}")
    for _ in range(2):
        done = run.clusterd("reload")
        if done.returncode:
            raise Found(f"a reload after it all: {done.stderr}")
    settled(run)


if __name__ == "__main__":
    sys.exit(main())
