"""A reload under load loses nothing, replaces every worker, and the new code answers: every engine."""

from __future__ import annotations

import pytest

from tests.systemd import load
from tests.systemd.apps import ENGINES, GRANIAN_ASGI, NODE, UVICORN, WAITRESS, App
from tests.systemd.harness.images import DEBIAN13
from tests.systemd.harness.instance import Instance

PATIENT = '[reload]\nlinger = "30s"\n'
"""A client that stands still for seconds, as all of them do when the machine does, loses nothing."""
QUICK = f'{PATIENT}soak = "300ms"\n'
# The others on both releases, and more often, in the proof.
EACH = [app if app is UVICORN else pytest.param(app, marks=pytest.mark.once) for app in ENGINES]


def reload_under_load(instance: Instance, app: App, times: int) -> None:
    """`times` reloads, each to code with another greeting, while wrk, ab and a probe ask without a pause."""
    with load.everything(instance.machine, instance.port, steady="/healthz") as asked:
        workers = instance.workers()
        for number in range(times):
            instance.write(app.module, app.source(f"release{number}"))
            instance.reload()
            before, workers = workers, instance.workers()
            assert set(workers.values()).isdisjoint(before.values()) and len(workers) == len(before)
            answers = instance.answers(8)
            assert len(answers) == 8 and all(answer.startswith(f"release{number} ") for answer in answers)
    asked.assert_nothing_lost()
    assert instance.show("ActiveState") == "active"


@pytest.mark.parametrize("app", EACH, ids=lambda app: app.name)
def test_reload_loses_nothing(instance: Instance, app: App) -> None:
    """Three reloads: 0 failed requests, 0 socket errors, 0 time-outs, no drop by the kernel, every pid new."""
    app.deploy(instance, extra=QUICK)
    instance.start()
    reload_under_load(instance, app, 3)


@pytest.mark.proof
@pytest.mark.parametrize("app", (*ENGINES, GRANIAN_ASGI), ids=lambda app: app.name)
def test_ten_reloads_lose_nothing(instance: Instance, app: App) -> None:
    """Ten, with the soak people get by default. On Debian 12 three of what is in a venv of its own: it is the same."""
    app.deploy(instance, extra=PATIENT)
    instance.start()
    of_debian = app in (UVICORN, WAITRESS, NODE)
    reload_under_load(instance, app, 10 if of_debian or instance.machine.release is DEBIAN13 else 3)


@pytest.mark.once
@pytest.mark.parametrize("surge", ["1", '"all"'])
def test_reload_by_surge(instance: Instance, surge: str) -> None:
    """One worker at a time, and all at once: nothing lost either way, and never more processes than surge allows."""
    UVICORN.deploy(instance, extra=f'workers = 3\n{PATIENT}soak = "200ms"\ndrain-timeout = "60s"\nsurge = {surge}\n')
    instance.start()
    reload_under_load(instance, UVICORN, 1)
