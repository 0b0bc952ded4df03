"""What was found, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Candidate:
    """One thing that could be served. `why` says where it is from; `rank` is lower for what is surer."""

    reference: str
    directory: Path
    framework: str
    interface: Literal["asgi", "wsgi", "unknown"]
    why: str
    rank: int
    health: str | None = None
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interpreter:
    """`version` is "3.12", or "" when it cannot be told; `packages` are names as they are imported."""

    path: str
    why: str
    version: str = ""
    packages: frozenset[str] = field(default_factory=frozenset)


class NothingFound(Exception):
    """`hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint
