"""What a keeper and a master load: they are started after crashes, and must come back in milliseconds."""

from __future__ import annotations

from tests.shell.waiting import Spawn, line

HEAVY = ("asyncio", "click", "rich", "logging", "subprocess", "systemd.journal", "sdnotify")


def test_light(python: Spawn) -> None:
    """Nothing heavy is imported before it is needed."""
    text = (
        "import sys, clusterd.keeper, clusterd.balance.table\n"
        "from clusterd.shell import cgroup, control, journal, listeners, memory, notified, notify, poll, reuseport\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], flush=True)"
    )
    assert line(python(text).stdout) == "[]"
