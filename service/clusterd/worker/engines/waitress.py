"""WSGI by waitress."""

from __future__ import annotations

from typing import Any

from ..refusal import Refusal


def prepare(app: Any, http: Any, health_path: str | None, access_log: bool, log_level: str) -> Any:
    raise Refusal("waitress: not built yet")
