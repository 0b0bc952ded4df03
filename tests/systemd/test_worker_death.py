"""A worker that dies costs the requests it had taken, no other; and its successor is there at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from clusterd.shell import messages
from tests.systemd import load
from tests.systemd import test_sandbox as sandbox
from tests.systemd.accounting import accounted, at_rest, halt, kill
from tests.systemd.apps import ENGINES, UVICORN, App
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

REALISTIC = """
import argparse, asyncio, concurrent.futures, csv, ctypes, datetime, decimal, email.message, hashlib, http.client
import http.server, inspect, json, logging.config, multiprocessing, sqlite3, ssl, statistics, tempfile, unittest.mock
import urllib.request, uuid, wsgiref.simple_server, xml.etree.ElementTree, xmlrpc.client, zipfile, zoneinfo
"""
"""What a plain application has imported, by itself and through its libraries, before it does anything.

A small one: a framework, an ORM and their own libraries are ten times as much, and then a fork wins by more.
"""


MOST = 20
"""Rounds: a busy machine makes a start longer, never shorter."""


def replaced(instance: Instance, pid: int, wanted: int) -> dict[int, int]:
    """The workers, as soon as as many as wanted serve and `pid` is none of them."""
    return instance.machine.wait_for(
        f"the successor of {pid}",
        lambda: (now := instance.workers()) and len(now) == wanted and pid not in now.values() and now,
    )


def kill_under_load(instance: Instance, app: App, times: int) -> None:
    """Stop a worker, count what it has taken, kill it; wait for its successor; again.

    Who waits in a queue is answered by a successor, and forgotten by none.
    """
    app.deploy(instance, extra="workers = 3\n")
    instance.start()
    taken = 0
    with load.everything(instance.machine, instance.port) as asked:
        workers = instance.workers()
        for number in range(times):
            pid = workers[sorted(workers)[number % 3]]
            taken += halt(instance, pid)
            kill(instance, pid)
            workers = replaced(instance, pid, 3)
    assert taken > 0
    said = f"{asked.wrk.failures} {asked.ab.failures} {asked.probe.failures}\n{asked.wrk.text}\n{asked.ab.text}"
    assert asked.lost <= taken, f"{asked.lost} failures, {taken} connections had been taken: {said}"
    assert not any(asked.dropped.values()) and "timeout" not in asked.wrk.failures
    assert "timeout" not in asked.probe.failures


@pytest.mark.parametrize("app", [UVICORN], ids=lambda app: app.name)
def test_costs_what_it_had_taken(instance: Instance, app: App) -> None:
    """Three SIGKILLs under load: at most the requests on connections the dead had accepted fail; queues wait."""
    kill_under_load(instance, app, 3)


@pytest.mark.proof
@pytest.mark.parametrize("app", ENGINES, ids=lambda app: app.name)
def test_nine_deaths(instance: Instance, app: App) -> None:
    """The same nine times, whatever the engine."""
    kill_under_load(instance, app, 9)


def death_to_ready(instance: Instance) -> float:
    """Seconds from a SIGKILL to READY of the successor; of a worker old enough to be replaced without a delay."""

    def grown() -> dict[str, int] | None:
        oldest = max(instance.status()["workers"], key=lambda w: float(w["age"]))
        return oldest if oldest["age"] > 1.2 else None

    pid = instance.machine.wait_for("a grown worker", grown)["pid"]
    cursor = instance.machine.cursor()
    script = "import os, sys, time; print(time.monotonic()); os.kill(int(sys.argv[1]), 9)"
    killed = float(instance.machine.run(["/usr/bin/python3", "-Sc", script, str(pid)]).stdout)
    replaced(instance, pid, 4)
    (ready,) = instance.machine.journal(f"MESSAGE_ID={messages.WORKER_READY.id}", unit=instance.service, after=cursor)
    return int(ready["__MONOTONIC_TIMESTAMP"]) / 1e6 - killed


def fork_beats_spawn(forking: Instance, spawning: Instance, times: int) -> None:
    """The best of as many deaths of each kind, in turn; of more, where none was quiet."""
    for instance, preload in ((forking, ""), (spawning, "preload = false\n")):
        UVICORN.deploy(instance, extra=f"workers = 4\n[reload]\n{preload}")
        instance.write("hello.py", UVICORN.source() + REALISTIC)
        instance.start()
    assert [i.status()["generations"][0]["mode"] for i in (forking, spawning)] == ["fork", "spawn"]
    rounds: list[tuple[float, float]] = []
    fork = spawn = math.inf
    while len(rounds) < times or fork > 0.25 * spawn and len(rounds) < MOST:
        rounds.append((death_to_ready(forking), death_to_ready(spawning)))
        fork, spawn = map(min, zip(*rounds, strict=True))
    print(f"death to READY, best of {len(rounds)}: fork {fork:.3f} s, spawn {spawn:.3f} s, ratio {fork / spawn:.2f}")
    assert fork <= 0.25 * spawn, rounds


def test_successor_comes_at_once(machine: Container, instances: Callable[[Container], Instance]) -> None:
    """From death to READY a fork takes at most a quarter of what an interpreter takes that imports anew (3 each)."""
    fork_beats_spawn(instances(machine), instances(machine), 3)


@pytest.mark.proof
def test_twenty_successors_come_at_once(machine: Container, instances: Callable[[Container], Instance]) -> None:
    """The same, twenty each."""
    fork_beats_spawn(instances(machine), instances(machine), 20)


STUBBORN = """
import subprocess
child = "trap '' TERM HUP; sleep 1000 & wait; sleep 1000"
result = subprocess.Popen(["setsid", "--fork", "sh", "-c", child]).wait()
"""


@pytest.mark.once
@pytest.mark.parametrize("how", ["killed", "replaced"])
def test_leaves_nobody_behind(instance: Instance, how: str) -> None:
    """What a worker has started ends with it, also in a session of its own and deaf to SIGTERM: by its own death, and
    by a reload. Other workers and what they have started are not touched."""
    sandbox.deploy(instance)
    instance.start()

    def strays() -> set[int]:
        """Processes that are none of ours."""
        return set(instance.processes()) - accounted(instance, instance.status())

    sandbox.ask(instance, "python", STUBBORN)
    stray = instance.machine.wait_for("both", lambda: len(found := strays()) == 2 and found)
    (worker,) = instance.workers().values()
    if how == "killed":
        instance.machine.run(["kill", "-KILL", str(worker)])
    else:
        instance.reload()
    instance.machine.wait_for("their end", lambda: not stray & set(instance.processes()))
    replaced(instance, worker, 1)
    at_rest(instance)
