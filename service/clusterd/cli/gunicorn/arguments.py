"""gunicorn's command line, as in ExecStart= or a Procfile, to its settings."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from clusterd.cli.gunicorn.reading import Value
from clusterd.cli.gunicorn.table import TABLE


class UsageError(Exception):
    """The command line cannot be read; the text says why."""


@dataclass
class Line:
    values: dict[str, Value] = field(default_factory=dict)
    program: str = "gunicorn"
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that stood before the command."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def command_line(words: Sequence[str]) -> Line:
    """Of '[VARIABLE=VALUE]... [exec] gunicorn [OPTION]... [APP]', in one word or many. Raises UsageError."""
    try:
        rest = shlex.split(words[0]) if len(words) == 1 else list(words)
    except ValueError as e:
        raise UsageError(str(e)) from None
    line = Line()
    while rest and (rest[0] in ("exec", "env") or re.match(r"[A-Za-z_][A-Za-z0-9_]*=", rest[0])):
        name, equals, value = rest.pop(0).partition("=")
        if equals:
            line.environment[name] = value
    if not rest:
        raise UsageError("there is no command in it")
    line.program = rest.pop(0).lstrip("-@:+!")
    if re.fullmatch(r"python[0-9.]*", os.path.basename(line.program)) and rest[:1] == ["-m"]:
        rest = rest[1:]
        if rest[:1] != ["gunicorn"] and rest[:1] != ["gunicorn.app.wsgiapp"]:
            raise UsageError("it is not gunicorn's command line")
        rest = rest[1:]
    elif os.path.basename(line.program) not in ("gunicorn", "gunicorn3"):
        raise UsageError(f"'{line.program}' is not gunicorn")
    line.values = options(shlex.split(line.environment.pop("GUNICORN_CMD_ARGS", ""))) | options(rest)
    return line


def options(words: Sequence[str]) -> dict[str, Value]:
    parser = _Parser(add_help=False)
    for name, row in TABLE.items():
        if row.options:
            how: dict[str, Any] = {
                "value": {},
                "flag": {"action": "store_true"},
                "off": {"action": "store_false"},
                "list": {"action": "append"},
                "optional": {"nargs": "?", "const": "auto"},
            }[row.takes]
            parser.add_argument(*row.options, dest=name, default=None, **how)
    parser.add_argument("wsgi_app", nargs="?")
    found = vars(parser.parse_args(list(words)))
    return {name: Value(value) for name, value in found.items() if value is not None}
