"""The tasks as JSON and back: what a master leaves for its successor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clusterd.tasks.model import Last, Outcome, Phase, Plan, Run, Task, Tasks


def to_json(state: Tasks) -> dict[str, Any]:
    return dataclasses.asdict(state)


def from_json(value: Mapping[str, Any]) -> Tasks:
    """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
    return Tasks(**{**value, "tasks": {name: _task(each) for name, each in value["tasks"].items()}})


def _task(t: Mapping[str, Any]) -> Task:
    run, last = t["run"], t["last"]
    return Task(
        **{
            **t,
            "plan": Plan(**t["plan"]),
            "run": Run(**{**run, "phase": Phase(run["phase"])}) if run else None,
            "last": Last(**{**last, "outcome": Outcome(last["outcome"])}) if last else None,
        }
    )
