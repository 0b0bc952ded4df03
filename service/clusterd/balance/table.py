"""Which slots take connections, as data: what the master compares to know that the kernel must be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from clusterd.balance.program import MODES, Instruction, Mode, program


@dataclass(frozen=True)
class Table:
    """`total` slots of an address, those in `live` served. Equal tables need no new program."""

    mode: Mode
    total: int
    live: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"balance '{self.mode}': expected {' or '.join(MODES)}")
        inside = not self.live or 0 <= self.live[0] <= self.live[-1] < self.total
        if list(self.live) != sorted(set(self.live)) or not inside:
            raise ValueError(f"live slots {self.live}: expected each once, ascending, within 0 to {self.total - 1}")

    def program(self) -> list[Instruction]:
        return program(self.mode, self.live)
