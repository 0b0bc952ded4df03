"""What a command prints: rich on a terminal, plain lines everywhere else, the same words on both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO

import click

STYLES = {
    "serving": "green",
    "up": "green",
    "ready": "cyan",
    "starting": "cyan",
    "booting": "cyan",
    "reloading": "cyan",
    "draining": "yellow",
    "stopping": "yellow",
    "degraded": "red",
    "lost": "red",
    "invalid": "red",
}
"""Colour of a cell by its whole text; colour only repeats what the word says."""


def fancy(stream: IO[str]) -> bool:
    """Whether `stream` may get colours and live lines: a terminal that can, and nobody said NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print aligned columns, headers in capitals as ps(1) has them. `numbers` names the right-aligned ones."""
    lines = [[str(cell) for cell in row] for row in rows]
    if fancy(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            grid.add_column(column.upper(), justify="right" if column in numbers else "left")
        for line in lines:
            grid.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
        console = Console()
        # A terminal that is too narrow wraps its lines; cells that are cut could be mistaken for whole ones.
        console.width = max(console.width, console.measure(grid, options=console.options.update(width=1000)).maximum)
        console.print(grid)
        return
    widths = [max(len(text) for text in column) for column in zip(columns, *lines, strict=True)]
    for line in [[column.upper() for column in columns], *lines]:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def age(seconds: float) -> str:
    """'3 s', '4 min', '2 h 5 min', '3 d 4 h'."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'; [] -> 'none'."""
    parts: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in parts) or "none"
