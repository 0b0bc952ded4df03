"""Time is monotonic: what reads the clock on the wall is listed, and decides nothing."""

from __future__ import annotations

import ast
from pathlib import Path

SERVICE = Path(__file__).resolve().parents[1] / "service"
WALL = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today"}
ALLOWED = {
    "clusterd/master/status.py": "shows when something was, worked out anew from how long ago it was",
    "clusterd/cli/observe.py": "takes that apart again",
    "clusterd/cli/lifecycle.py": "asks the journal for what was written since",
    "clusterd/worker/tls.py": "a certificate ends at a time of the day",
}


def reads_the_wall(tree: ast.AST) -> bool:
    """Whether it calls time.time() or one of its kind."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = [f for f in calls if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.attr in WALL]
    imported = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "time")
    return any(f.value.id in ("time", "datetime", "date") for f in names) or any(  # type: ignore[attr-defined]
        alias.name in WALL for node in imported for alias in node.names
    )


def test_who_reads_the_wall_clock() -> None:
    """Nobody but those listed, each with a reason: a clock that jumps changes no decision."""
    found = {
        str(path.relative_to(SERVICE)) for path in SERVICE.rglob("*.py") if reads_the_wall(ast.parse(path.read_text()))
    }
    assert found == set(ALLOWED)
