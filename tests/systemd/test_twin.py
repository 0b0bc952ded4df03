"""The zygote's understudy on a real systemd, where each process has a cgroup of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.systemd.accounting import kill
from tests.systemd.apps import UVICORN
from tests.systemd.harness.instance import Instance


@pytest.mark.once
def test_code_that_is_no_longer_on_disk_outlives_its_zygotes(instance: Instance) -> None:
    """Each zygote that is killed is followed by its twin, which is not killed for it: broken code is not imported."""
    UVICORN.deploy(instance, extra="workers = 2\n")
    instance.start()

    def zygote() -> Any:
        generation = instance.status()["generations"][0]
        return generation["zygote"] and generation["twin"] and (generation["zygote"], generation["twin"])

    pids = instance.machine.wait_for("a zygote and its twin", zygote)
    instance.write(UVICORN.module, "this is no Python")
    for _ in range(2):
        kill(instance, pids[0])
        after = instance.machine.wait_for("another twin", lambda p=pids: (z := zygote()) and z[0] != p[0] and z)
        assert after[0] == pids[1], "the twin is the zygote now"
        pids = after
    kill(instance, pids[1])
    after = instance.machine.wait_for("another twin", lambda: (z := zygote()) and z[1] != pids[1] and z)
    assert after[0] == pids[0], "nor is a zygote killed for its twin"
    before = instance.workers()
    kill(instance, *before.values())
    instance.machine.wait_for(
        "two new workers",
        lambda: (now := instance.workers()) and len(now) == 2 and not {*now.values()} & {*before.values()},
    )
    assert instance.get()[1].startswith("hello ")
