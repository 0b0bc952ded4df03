"""Which instance a command means: names, their files and control sockets, and the nearest name to a mistyped one."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clusterd.cli.exits import CommandError, Exit
from clusterd.config import names
from clusterd.config.places import SYSTEM, Place, of_user


@dataclass(frozen=True)
class Places:
    """Directories: one TOML file an application in `config`, one directory a running instance in `runtime`."""

    config: Path
    runtime: Path
    place: Place = SYSTEM
    """What runs them. Its directories are those of above, unless the command line named others."""

    def known(self) -> list[str]:
        """Names with a file, or with a control socket (a running instance may have lost its file)."""
        try:
            files = [path.stem for path in self.config.glob("*.toml")]
            running = [path.parent.name for path in self.runtime.glob("*/control")]
        except PermissionError as e:
            raise CommandError(f"{e.filename}: permission denied", Exit.NOT_ALLOWED) from None
        return sorted(name for name in {*files, *running} if names.is_name(name))

    def file(self, name: str) -> Path:
        return self.config / f"{name}.toml"

    def control(self, name: str) -> Path:
        return self.runtime / name / "control"

    def instance(self, name: str) -> Instance:
        return Instance(name, self.control(name), self.file(name), self.place)


@dataclass(frozen=True)
class Instance:
    """What a command works on. `file` is None when the control socket itself was named."""

    name: str
    control: Path
    file: Path | None
    place: Place = SYSTEM

    @property
    def shown(self) -> str:
        """What to type for this instance."""
        return self.name if self.file else str(self.control)

    def clusterd(self, verb: str) -> str:
        """The command to type for `verb`."""
        return f"{self.place.tool('clusterd') if self.file else 'clusterd'} {verb} {self.shown}"

    @property
    def log(self) -> str:
        """The command to type for its journal."""
        return f"{self.place.tool('journalctl')} -u cluster@{self.name}"


def places(context: click.Context | None) -> Places:
    found = context.find_object(Places) if context else None
    return found or of_place(SYSTEM)


def of_place(place: Place) -> Places:
    return Places(Path(place.configuration), Path(place.runtime), place)


class InstanceType(click.ParamType):
    """NAME of an application, or the path of a control socket (anything with a slash)."""

    name = "name"

    def __init__(self, *, must_exist: bool = True) -> None:
        self._must_exist = must_exist

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instance:
        if isinstance(value, Instance):
            return value
        if "/" in value:
            return Instance(Path(value).parent.name or value, Path(value), None)
        return find(value, places(ctx), must_exist=self._must_exist)


def find(name: str, where: Places, *, must_exist: bool = True) -> Instance:
    """The instance called `name`. Raises CommandError when it cannot be one, or when there is none."""
    name = name.removesuffix(".service").removesuffix(".socket").removeprefix("cluster@").removesuffix(".toml")
    if not names.is_name(name):
        raise CommandError(f"'{name}' cannot be the name of an instance", Exit.INVALID, hint=f"a name is {names.NAME}")
    found = where.instance(name)
    if must_exist:
        need(found, where)
    return found


def need(instance: Instance, where: Places) -> None:
    """That there is one of that name, here. Raises CommandError."""
    if instance.file is not None and instance.name not in (known := where.known()):
        raise CommandError(
            f"no instance '{instance.name}': {instance.file} does not exist",
            Exit.INVALID,
            hint=suggestion(instance.name, known, where),
        )


def suggestion(name: str, known: list[str], where: Places) -> str:
    if not where.place.user and os.path.exists((own := of_user(os.environ, os.getuid())).file(name)):
        return f"'{own.file(name)}' is an application of your own: clusterd --user"
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean '{near[0]}'?"
    if known:
        return f"there are: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    return f"there are none yet; write {where.file(name)}, see cluster.toml(5)"
