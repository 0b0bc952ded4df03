"""The one place that waits."""

from __future__ import annotations

from clusterd.master.loop import Loop, drive
from clusterd.shell.poll import Poll


def test_over_at_once() -> None:
    """A master that is done before it has waited at all (its start is refused) ends with its status, not in a crash."""

    def refused() -> Loop:
        return 1
        yield None

    assert drive(refused(), Poll()) == 1
