"""The commands as completion sees them: which words may stand where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import click

from clusterd.cli.instances import InstanceType

Kind = Literal["nothing", "instance", "target", "application", "profile", "worker", "file", "directory", "words"]
"""What a value is. "target": an instance or a file; "application": a configuration file, or MODULE:OBJECT."""

_BY_METAVAR: dict[str, Kind] = {
    "PROFILE": "profile",
    "WORKER": "worker",
    "DIR": "directory",
    "PATH": "file",
    "FILE": "file",
    "[NAME|FILE]...": "target",
    "[APP|FILE.toml]": "application",
    "[APP|DIRECTORY]": "file",
    "[FILE|COMMAND]...": "file",
}


@dataclass(frozen=True)
class Option:
    """`kind` is None for a switch; `words` are the values of a choice."""

    names: tuple[str, ...]
    help: str
    kind: Kind | None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """`several`: any number of arguments, all of that `kind`."""

    name: str
    help: str
    options: tuple[Option, ...]
    kind: Kind
    several: bool


def commands(group: click.Group) -> list[Command]:
    """Those people type, in the order of the help."""
    return [_command(name, command) for name, command in group.commands.items() if not command.hidden]


def options(command: click.Command) -> tuple[Option, ...]:
    return tuple(_options(command))


def _command(name: str, command: click.Command) -> Command:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    kind = _kind(arguments[0]) if arguments else "nothing"
    several = any(p.nargs == -1 for p in arguments)
    return Command(name, command.short_help or "", options(command), kind, several)


def _options(command: click.Command) -> Iterator[Option]:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            words = tuple(option.type.choices) if isinstance(option.type, click.Choice) else ()
            help = (option.help or "").split("\n")[0]
            yield Option(tuple(option.opts), help, None if option.is_flag else _kind(option), words)
    yield Option(("-h", "--help"), "Show this message and exit.", None)


def _kind(parameter: click.Parameter) -> Kind:
    if isinstance(parameter.type, InstanceType):
        return "instance"
    if isinstance(parameter.type, click.Choice):
        return "words"
    if isinstance(parameter.type, click.Path):
        return "directory" if parameter.type.dir_okay else "file"
    return _BY_METAVAR.get(parameter.metavar or "", "nothing")
