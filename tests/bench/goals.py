"""What was to be reached, beside what was measured: the page says it first where something does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

NOISE = 0.03
"""ratios of a run this near to the bound are said to be within noise, not reached"""

Known = dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Goal:
    text: str
    measured: str
    verdict: str


def goals(figures: Known) -> list[Goal]:
    found = [
        failed(figures, "clusterd", "uvicorn"),
        failed(figures, "clusterd-granian", "granian, WSGI"),
        failed(figures, "clusterd-wsgi", "waitress"),
        at_least("WSGI by granian: requests/s, at least 5 times gunicorn's gthread", 5.0,
                 quotient(figures, "wrk rate", "clusterd-granian", "gunicorn-gthread")),
        at_least("WSGI by granian: requests/s, at least those of granian's own server", 1.0,
                 quotient(figures, "wrk rate", "clusterd-granian", "granian-wsgi")),
        at_most("a request's processor time over the bare engine's, uvicorn: at most 1 %", 1.01,
                middle(figures, "bare cpu", "clusterd"), 3),
        at_most("... granian", 1.01, middle(figures, "bare cpu", "clusterd-granian"), 3),
        at_most("... waitress", 1.01, middle(figures, "bare cpu", "clusterd-wsgi"), 3),
        at_most("the scoreboard: at most 1 % of a request's processor time, granian, %", 1.0,
                middle(figures, "board count", "clusterd-granian")),
        at_most("... waitress", 1.0, middle(figures, "board count", "clusterd-wsgi")),
        at_most("a further worker, 100 MB of objects: at most half of gunicorn's without preload", 0.5,
                quotient(figures, "memory worker", "clusterd", "gunicorn-uvicorn")),
        at_most("... even when each worker has read all of them", 0.5,
                quotient(figures, "memory touched", "clusterd", "gunicorn-uvicorn")),
        at_most("at rest: wake-ups a second of all that is not a worker, at most 1", 1.0,
                middle(figures, "rest wakeups", "clusterd")),
    ]  # fmt: skip
    return [goal for goal in found if goal]


def failed(figures: Known, server: str, engine: str) -> Goal | None:
    counts = figures.get(("reload failures", server))
    if counts is None:
        return None
    lost = sum(counts)
    return Goal(f"no request fails at a reload ({engine})", f"{lost:.0f} failed", verdict(not lost))


def at_least(text: str, bound: float, value: float | None) -> Goal | None:
    if value is None:
        return None
    near = bound * (1 - NOISE) <= value < bound
    return Goal(text, f"{value:.2f}", "within noise" if near else verdict(value >= bound))


def at_most(text: str, bound: float, value: float | None, digits: int = 2) -> Goal | None:
    return None if value is None else Goal(text, f"{value:.{digits}f}", verdict(value <= bound))


def verdict(holds: bool) -> str:
    return "holds" if holds else "**does not hold**"


def middle(figures: Known, key: str, server: str) -> float | None:
    values = figures.get((key, server))
    return median(values) if values else None


def quotient(figures: Known, key: str, one: str, other: str) -> float | None:
    above, below = middle(figures, key, one), middle(figures, key, other)
    return above / below if above is not None and below else None
