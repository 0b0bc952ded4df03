"""Any program that takes its sockets from systemd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def find(command: Sequence[str]) -> str:
    raise NotImplementedError


def run(boot: Any, order: dict[str, Any], fds: list[int], exec_fd: int) -> int:
    raise NotImplementedError
