"""What is wrong with a configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing to mend: in `file` at `key` stands `found`, where `expected` should. `hint`, if any, says what to do.

    `key` is "" for what concerns the whole file, "line 3" for a mistake in its syntax.
    """

    file: str
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: found {self.found}, expected {self.expected}" + (f"; hint: {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, str]:
        """As Invalid{problems} carries it on the control socket."""
        return asdict(self)


class Invalid(Exception):
    """A file that cannot be used, with every one of its problems. A problem a line, as text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))
