"""The table: medians, with the ratio to uvicorn where a ratio means something, and every round's figure below."""

from __future__ import annotations

from statistics import median

from legs import Row

BASE = "uvicorn"

WHAT = """\
# Benchmarks

`make bench` writes this page: clusterd beside `uvicorn --workers`, gunicorn with uvicorn workers, and a classic Node
cluster (the primary forks the workers, starts another for each that dies, and replaces them with `disconnect()` one
after the other). The three Python servers serve the same ASGI application with the same uvicorn under the same
interpreter; Node gives the same answers. One worker per core, everything on the loopback of one machine, the load
generators included: the absolute figures say little, the ratios to uvicorn in the same run (in brackets) something.

What counts as failed: a connection refused or reset, an answer that never came, a time-out (10 s), any status but 2xx.
A worker that is killed takes with it the requests it had accepted, whoever started it: with kept connections under load
some are always lost.
"""


def render(
    rows: dict[str, Row],
    names: list[str],
    figures: dict[tuple[str, str], list[float]],
    notes: list[str],
    head: list[str],
) -> str:
    present = {key: row for key, row in rows.items() if any((key, name) in figures for name in names)}
    lines = [WHAT, *head, "", f"| | unit | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
    for key, row in present.items():
        cells = [cell(row, figures.get((key, name)), figures.get((key, BASE)), name) for name in names]
        lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} |")
    lines += ["", "## Every round", "", f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for key, row in present.items():
        cells = [", ".join(number(v, row.digits) for v in figures.get((key, name), [])) or "-" for name in names]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    if notes:
        lines += ["", "## Kinds of failures", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def cell(row: Row, values: list[float] | None, base: list[float] | None, name: str) -> str:
    if not values:
        return "-"
    middle = median(values)
    text = number(middle, row.digits)
    if row.ratio and base and median(base) and name != BASE:
        text += f" ({middle / median(base):.2f})"
    return text


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", "\N{THIN SPACE}")
