"""Exit statuses, the same for every command, and the error that carries one out of a command."""

from __future__ import annotations

from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    DONE = 0
    REFUSED = 1
    INVALID = 2
    SUPERSEDED = 3
    UNREACHABLE = 4
    NOT_ALLOWED = 5
    RETURNED = 6
    STOPPING = 7
    ELSEWHERE = 8
    INTERRUPTED = 130


MEANING: dict[Exit, str] = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused or failed; a refused reload changes nothing, the old workers serve on",
    Exit.INVALID: "wrong usage, an unknown instance, or an invalid configuration file",
    Exit.SUPERSEDED: "superseded by a later reload, which reports the outcome",
    Exit.UNREACHABLE: "the instance is not running, or its master does not answer",
    Exit.NOT_ALLOWED: "not allowed: it needs root",
    Exit.RETURNED: "the new generation took over, kept dying, and the previous one was brought back",
    Exit.STOPPING: "not done, because the service is stopping",
    Exit.ELSEWHERE: "another host runs the tasks of this application",
    Exit.INTERRUPTED: "interrupted (Ctrl-C); a reload goes on without its client",
}
"""One row per status: feeds --help, clusterd(8), and the test that they agree."""


class CommandError(click.ClickException):
    """Ends the command: `message` says what and where, `hint` what to do; printed on standard error."""

    def __init__(self, message: str, code: Exit, *, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = int(code)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"clusterd: {self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(f"hint: {self.hint}", file=file, err=file is None)
