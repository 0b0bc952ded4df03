"""More workers than there are cores, and fewer again, under load."""

from __future__ import annotations

import pytest

from tests.systemd import load
from tests.systemd.accounting import at_rest
from tests.systemd.apps import UVICORN, WAITRESS, App
from tests.systemd.harness.instance import Instance

TABLES = 'workers = 2\nslots = {slots}\n[reload]\nlinger = "30s"\n'


@pytest.mark.proof
@pytest.mark.parametrize(
    "app,slots", [(UVICORN, 64), (UVICORN, 16), (WAITRESS, 64)], ids=lambda x: getattr(x, "name", x)
)
def test_sixty_four_and_back_to_one(instance: Instance, app: App, slots: int) -> None:
    """Up to 64 and down to one under load, with as many slots as workers, and with fewer: nothing is lost, each worker
    serves while it is wanted, and in the end every process is accounted for."""
    app.deploy(instance, extra=TABLES.format(slots=slots))
    instance.start()
    with load.everything(instance.machine, instance.port) as asked:
        for wanted in (64, 1, 8):
            said = instance.machine.run(["clusterd", "scale", instance.name, str(wanted)], timeout=300).stdout
            assert said.startswith(f"{instance.name}: {wanted} worker")
            now = at_rest(instance)
            assert now["wanted"] == wanted and len(now["workers"]) == wanted
            assert {w["slot"] for w in now["workers"]} == set(range(min(wanted, slots)))
    asked.assert_nothing_lost()
