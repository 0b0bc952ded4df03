"""Logging."""

from __future__ import annotations

import logging


def install(level: str) -> None:
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=level.upper())
