"""Tasks as a table, for `clusterd task` and `clusterd status`."""

from __future__ import annotations

from typing import Any

from clusterd.cli import systemd
from clusterd.cli.instances import Instance
from clusterd.cli.terminal import age, table
from clusterd.config import timers

MAX_SHOWN = 60
"""Characters of a result; --json has more."""


def show(instance: Instance, tasks: list[dict[str, Any]]) -> None:
    table(("task", "schedule", "last", "result", "next"), [row(instance, each) for each in tasks])


def row(instance: Instance, task: dict[str, Any]) -> tuple[str, ...]:
    last = task.get("last")
    came = "-" if last is None else f"{last['outcome']} {age(last['age'])} ago"
    text = "-" if last is None else str(last["result"] if last["outcome"] == "done" else last["reason"])
    if task["failures"] > 1:
        came += f" ({task['failures']} times in a row)"
    text = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
    return task["task"], task["schedule"], came, text, due(instance, task)


def due(instance: Instance, task: dict[str, Any]) -> str:
    """When it runs next, in words."""
    if (going := task.get("run")) is not None:
        return f"runs, for {age(going['seconds'])}"
    if task.get("elsewhere"):
        return str(task["elsewhere"])
    if task.get("next") is not None:
        return f"in {age(task['next'])}"
    if task["schedule"] != "on demand" and instance.file is not None:
        timer = f"{timers.unit(instance.name, task['task'])}.timer"
        return systemd.of(instance.place).show(timer, "NextElapseUSecRealtime").get("NextElapseUSecRealtime") or "-"
    return "-"
