"""Progress of a reload: one live line on a terminal, otherwise a line whenever the words change."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from clusterd.cli.terminal import fancy

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """Shows messages of the shape {"phase", "ready", "wanted", "text"} while the block runs. `quiet` shows none."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._quiet = quiet
        self._last = ""
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if not self._quiet and fancy(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=None, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, progress: dict[str, Any]) -> None:
        phase, text = _word(progress.get("phase")), _word(progress.get("text"))
        text = text if phase in text else f"{phase} {text}".strip()
        if self._quiet:
            return
        if self._bar is not None and self._task is not None:
            wanted, ready = progress.get("wanted"), progress.get("ready")
            total = wanted if isinstance(wanted, int) and wanted > 0 else None
            done = ready if isinstance(ready, int) else 0
            self._bar.update(self._task, total=total, completed=done, text=text)
        elif text and text != self._last:
            click.echo(f"{self._title}: {text}", err=True)
        self._last = text


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
