"""The cluster as JSON and back: what a master leaves for its successor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clusterd.core.model import (
    Boot,
    Cluster,
    Failures,
    Generation,
    Kind,
    Mode,
    Phase,
    Policy,
    Rollout,
    Scaled,
    Stage,
    Twin,
    Watch,
    Worker,
)


def to_json(cluster: Cluster) -> dict[str, Any]:
    """Plain JSON values; map keys become strings."""
    value = dataclasses.asdict(cluster)
    for key in ("generations", "workers", "failures"):
        value[key] = {str(k): v for k, v in value[key].items()}
    return value


def from_json(value: Mapping[str, Any]) -> Cluster:
    """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
    mode, slots = value["ushered"]
    return Cluster(
        **{
            **value,
            "generations": {int(k): _generation(g) for k, g in value["generations"].items()},
            "workers": {int(k): Worker(**{**w, "phase": Phase(w["phase"])}) for k, w in value["workers"].items()},
            "failures": {int(k): Failures(**f) for k, f in value["failures"].items()},
            "rollout": _rollout(value["rollout"]) if value["rollout"] else None,
            "watch": Watch(**{**value["watch"], "kind": Kind(value["watch"]["kind"])}) if value["watch"] else None,
            "scaled": Scaled(**scaled) if (scaled := value.get("scaled")) else None,
            "steered": tuple(value["steered"]),
            "ushered": (Mode(mode), tuple(slots)),
        }
    )


def _generation(g: Mapping[str, Any]) -> Generation:
    return Generation(**{**g, "policy": Policy(**g["policy"]), "boot": Boot(g["boot"]), "twin": Twin(g["twin"])})


def _rollout(r: Mapping[str, Any]) -> Rollout:
    return Rollout(**{**r, "kind": Kind(r["kind"]), "stage": Stage(r["stage"])})
