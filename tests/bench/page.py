"""docs/benchmarks.md: how to read it, one table of ratios, the project's goals, then a table for each theme."""

from __future__ import annotations

from statistics import median

from goals import Goal
from plan import Column, Table
from servers import Server

Figures = dict[tuple[str, str], list[float]]
"""(key, name of the server) -> a figure for each round"""
Failures = dict[tuple[str, str], str]
"""(leg, name of the server) -> why it could not be measured"""

READING = """\
# Benchmarks

clusterd beside its peers: the same application, one machine, one interleaved run. `make bench` writes this page.

## How to read it

- A **ratio** is to the first server of the same kind: uvicorn (ASGI), gunicorn with threads (WSGI), Node's cluster.
  1.00 is equal; differences of a few per cent are noise.
- **Higher is better** for requests a second, **lower** for everything else.
- The application does nothing, on purpose: it shows what the servers add. Where a request takes 10 ms of Python, all
  are equally fast, and what is left is what happens at a reload, at a crash, and to memory.
- The engines of clusterd *are* uvicorn, granian and waitress: equal throughput is all that is to be expected.
- Load generators and servers share the same few cores and the loopback: absolute figures say little.
- `-`: not offered, or not measured. `failed`: it did not get through; the reason is below the table.
"""

METHOD = """\
## How it was measured

Servers of one kind serve the same application; Node gives the same answers in another language. Each is started as its
documentation has it for production, one worker a core, nothing logged a request. gunicorn's gthread and uWSGI have four
threads a worker; uWSGI has its HTTP router before the workers, `lazy-apps`, and is reloaded by its chain reload;
hypercorn uses uvloop; granian is told to replace workers that fail, and is killed more slowly than the others, because
it ends when one that it has replaced dies within 5.5 s; PM2 runs `pm2-runtime start -i`, and the application answers
its SIGINT as PM2's pages ask for. clusterd has its defaults.

Failed is: a connection refused or reset, an answer that never came, a time-out (10 s), any status but 2xx.
"""


def render(
    tables: list[Table],
    servers: list[type[Server]],
    figures: Figures,
    failures: Failures,
    goals: list[Goal],
    notes: list[str],
    head: list[str],
    chart: str,
) -> str:
    lines = [READING, *head, ""]
    if chart:
        lines += [f"![The main figures as bars]({chart})", ""]
    for table in tables[:1]:
        lines += section(table, servers, figures, failures)
    if goals:
        lines += ["## What this release was to reach", "", "| goal | measured | |", "|---|---:|---|"]
        lines += [f"| {goal.text} | {goal.measured} | {goal.verdict} |" for goal in goals] + [""]
    lines.append(METHOD)
    for table in tables[1:]:
        lines += section(table, servers, figures, failures)
    lines += rounds(tables[1:], servers, figures)
    if notes:
        lines += ["## Kinds of failures, and other notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def section(table: Table, servers: list[type[Server]], figures: Figures, failures: Failures) -> list[str]:
    columns = {key: c for key, c in table.columns.items() if any((key, s.name) in figures for s in servers)}
    legs = {column.leg for column in table.columns.values()}
    present = [
        server
        for server in servers
        if any((key, server.name) in figures for key in columns) or any((leg, server.name) in failures for leg in legs)
    ]
    if not present:
        return []
    lines = [f"## {table.title}", "", table.text, ""]
    lines += [f"| | | {' | '.join(c.title for c in columns.values())} |", "|---|---|" + "---:|" * len(columns)]
    kind = ""
    for server in present:
        cells = [cell(key, c, server, figures, failures) for key, c in columns.items()]
        title = f"**{server.title}**" if ours(server) else server.title
        lines.append(f"| {server.kind if server.kind != kind else ''} | {title} | {' | '.join(cells)} |")
        kind = server.kind
    reasons = {
        f"{server.title} ({server.kind}), leg {leg}: failed: {failures[leg, server.name]}": None
        for server in present
        for leg in sorted(legs)
        if (leg, server.name) in failures
    }
    return [*lines, "", *(f"- {reason}" for reason in reasons), *([""] if reasons else [])]


def ours(server: type[Server]) -> bool:
    return server.name.startswith("clusterd")


def ratio(key: str, server: type[Server], figures: Figures) -> float | None:
    """To the first of its kind; None where one of the two has no figure, or the other's is nothing."""
    values, beside = figures.get((key, server.name)), figures.get((key, server.base))
    if not values or not beside or not median(beside):
        return None
    return median(values) / median(beside)


def cell(key: str, column: Column, server: type[Server], figures: Figures, failures: Failures) -> str:
    values = figures.get((key, server.name))
    if not values:
        return "failed" if (column.leg, server.name) in failures else "-"
    if column.show == "sum":
        return number(sum(values), 0)
    found = ratio(key, server, figures)
    if column.show == "ratio":
        return "-" if found is None else f"{found:.2f}"
    text = number(median(values), column.digits)
    if column.show == "both" and found is not None and server.base != server.name:
        text += f" ({found:.2f})"
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
