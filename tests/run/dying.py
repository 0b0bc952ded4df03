"""clusterd whose masters kill themselves on request, at any point of their work.

    dying.py run FILE RUNTIME       `clusterd run FILE --runtime RUNTIME`, with such masters
    dying.py --process ...          such a master, as the keeper starts it

The file RUNTIME/die-at names the point: a number, counted from when the file appears. The master removes it, says in
RUNTIME/died what it was about to do, and sends itself SIGKILL. Where somebody else has removed it, it lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "service"))

from clusterd.config.load import load
from clusterd.master import entry, keeping, loop, performing, tasks


class Fate:
    def __init__(self, runtime: Path) -> None:
        self.plan = runtime / "die-at"
        self.dying, self.died = runtime / "dying", runtime / "died"
        self.count = 0

    def point(self, what: str) -> None:
        """One of the points at which a master may be made to die."""
        try:
            limit = int(self.plan.read_text())
        except (FileNotFoundError, ValueError):
            return
        self.count += 1
        if self.count > limit:
            self.dying.write_text(what)
            try:
                self.plan.unlink()
            except FileNotFoundError:
                return
            self.dying.rename(self.died)
            os.kill(os.getpid(), signal.SIGKILL)

    def beset(self, owner: type, name: str) -> None:
        """Make a point of the moments before and after each call of a method."""
        original: Callable[..., Any] = getattr(owner, name)

        def method(this: object, *arguments: Any) -> Any:
            text = f"{name} {', '.join(map(str, arguments[:1]))[:100]}"
            self.point(f"before {text}")
            value = original(this, *arguments)
            self.point(f"after {text}")
            return value

        setattr(owner, name, method)


def main(arguments: list[str]) -> int:
    if arguments[0] == "run":
        entry.program = lambda _, *rest: [sys.executable, "-B", __file__, *rest]  # type: ignore[assignment]
        return entry.run(load(arguments[1]), Path(arguments[2]))
    fate = Fate(Path(arguments[2]))
    fate.beset(keeping.Keeping, "save")
    fate.beset(keeping.Keeping, "keep")
    fate.beset(keeping.Keeping, "drop")
    fate.beset(performing.Performer, "perform")
    fate.beset(loop.Master, "advance")
    fate.beset(tasks.Tasks, "_perform")
    fate.beset(tasks.Tasks, "_heard")
    return entry.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
