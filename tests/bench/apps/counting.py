"""counting.py ENGINE: what clusterd's scoreboard costs a worker of that engine, measured alone.

Prints the seconds by which a call of an application that is counted is longer than one that is not (0 for uvicorn,
which counts by itself), and the seconds that the signs of life take of each second. The least of many short rounds of
this thread's processor time: whatever else the machine does only adds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "service"))

from clusterd.worker import board, given
from clusterd.worker.engines import pulse

ROUNDS, CALLS = 400, 5000


def app(environ: Any, start_response: Any) -> Any:
    return None


def least(call: Callable[..., Any], *arguments: Any) -> float:
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CALLS):
            call(*arguments)
        found = min(found, time.thread_time() - began)
    return found / CALLS


def main(engine: str) -> None:
    threads = pulse.Threads(4)
    given.board = board.Board(board.create())
    nobody: Any = SimpleNamespace(request_limit=lambda: None)
    beat = least(pulse.Pulse(nobody, nobody, lambda: threads.figures(None)).beat)
    counted = 0.0
    if engine != "uvicorn":
        environ: dict[str, Any] = {}  # what is ours for a request writes into it
        counted = least(threads.counted(app), environ, None) - least(app, environ, None)
    print(counted, beat / pulse.INTERVAL)


main(sys.argv[1])
