"""docs/benchmarks.md: a table for each theme, a row for each server, and every round's figure below."""

from __future__ import annotations

from statistics import median

from plan import Column, Table
from servers import Server

Figures = dict[tuple[str, str], list[float]]
"""(key, name of the server) -> a figure for each round"""

WHAT = """\
# Benchmarks

`make bench` writes this page: clusterd beside its peers on one machine, in one interleaved run.

What the figures show: how the servers compare *on this machine, in this run*, with an application that does nothing.
The load generators and the servers share the same few cores and the loopback, so that the absolute figures say little;
compare only within a column, and take differences of a few per cent for noise. The rounds' own spread is at the end.
What they do not show: your application. Where a request takes 10 ms of Python, all servers of a kind are equally fast,
and what is left is what happens at a reload, at a crash, and to memory.

Servers of one kind serve the same application; Node gives the same answers in another language. The engines of clusterd
are those of some peers, so that equal throughput is what is to be expected, and all that is claimed. Each peer is
started as its documentation has it, with a worker for each core; uWSGI with its HTTP router before the workers,
gunicorn's gthread and uWSGI with four threads a worker, granian told to replace workers that fail. The figure in
brackets is the ratio to the first peer of the kind: uvicorn, gunicorn with threads, Node's cluster.

What counts as failed: a connection refused or reset, an answer that never came, a time-out (10 s), any status but 2xx.
"""


def render(
    tables: list[Table], servers: list[type[Server]], figures: Figures, notes: list[str], head: list[str], chart: str
) -> str:
    lines = [WHAT, *head, ""]
    if chart:
        lines += [f"![The main figures as bars]({chart})", ""]
    for table in tables:
        lines += section(table, servers, figures)
    lines += rounds(tables, servers, figures)
    if notes:
        lines += ["## Notes: kinds of failures, and what did not work", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def section(table: Table, servers: list[type[Server]], figures: Figures) -> list[str]:
    columns = {key: c for key, c in table.columns.items() if any((key, s.name) in figures for s in servers)}
    present = [server for server in servers if any((key, server.name) in figures for key in columns)]
    if not present:
        return []
    lines = [f"## {table.title}", "", table.text, ""]
    lines += [f"| | | {' | '.join(c.title for c in columns.values())} |", "|---|---|" + "---:|" * len(columns)]
    kind = ""
    for server in present:
        cells = [cell(c, figures.get((key, server.name)), base(key, server, figures)) for key, c in columns.items()]
        title = f"**{server.title}**" if server.title.startswith("clusterd") else server.title
        lines.append(f"| {server.kind if server.kind != kind else ''} | {title} | {' | '.join(cells)} |")
        kind = server.kind
    return [*lines, ""]


def base(key: str, server: type[Server], figures: Figures) -> list[float] | None:
    return figures.get((key, server.base)) if server.base != server.name else None


def cell(column: Column, values: list[float] | None, beside: list[float] | None) -> str:
    if not values:
        return "-"
    middle = median(values)
    text = number(middle, column.digits)
    if column.ratio and beside and median(beside):
        text += f" ({middle / median(beside):.2f})"
    return text


def rounds(tables: list[Table], servers: list[type[Server]], figures: Figures) -> list[str]:
    """Of the figures that more than one round has."""
    columns = {key: c for table in tables for key, c in table.columns.items()}
    columns = {key: c for key, c in columns.items() if any(len(figures.get((key, s.name), [])) > 1 for s in servers)}
    if not columns:
        return []
    lines = ["## Every round", "", f"| | {' | '.join(c.title for c in columns.values())} |"]
    lines.append("|---|" + "---|" * len(columns))
    for server in servers:
        found = [
            ", ".join(number(v, c.digits) for v in figures.get((key, server.name), [])) or "-"
            for key, c in columns.items()
        ]
        lines.append(f"| {server.title} | {' | '.join(found)} |")
    return [*lines, ""]


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace(",", "\N{THIN SPACE}")
