"""Configuration files, as far as the subcommands read them, and how their problems are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import places
from clusterd.config import claims
from clusterd.config.environment import EnvironmentFileError, read_environment
from clusterd.config.load import Invalid, load, load_all, load_among
from clusterd.config.places import SYSTEM, Place
from clusterd.config.problem import Problem
from clusterd.config.settings import Settings


def loaded(file: Path, place: Place = SYSTEM, *, among: bool = False, profile: str | None = None) -> Settings:
    """The Settings of `file`; all its problems are printed before this raises CommandError.

    `among`: that its addresses are another file's of the directory is a problem too. `profile`: see load.
    """
    try:
        return load_among(file, place=place, profile=profile) if among else load(file, place, profile)
    except Invalid as e:
        raise invalid(file, e.problems) from None


def invalid(file: Path, problems: Iterable[Problem]) -> CommandError:
    """Prints the problems, and returns the error that sums them up."""
    listed = list(problems)
    for problem in listed:
        click.echo(describe(problem.to_json()), err=True)
    return CommandError(f"{file}: {count(len(listed), 'problem')}", Exit.INVALID)


def first_problem(file: Path | None, place: Place = SYSTEM) -> str | None:
    """The first problem of a file on one line, as `check` has it; None when it is valid, or is not there."""
    if file is None or not file.exists():
        return None
    found = _beside(file.parent, place).get(file.stem)
    return str(found[0]) if found else None


def _beside(directory: Path, place: Place) -> Mapping[str, list[Problem]]:
    """The problems of a directory's files by name, once a command: whose an address is, is seen by reading them all."""
    context = click.get_current_context()
    key = f"{__name__}:{directory}"
    if key not in context.meta:
        where = places(context)
        context.meta[key] = load_all(directory, claims.serving(where.known(), str(where.runtime)), place).problems
    found: Mapping[str, list[Problem]] = context.meta[key]
    return found


def describe(problem: Mapping[str, Any], *, kind: str = "error") -> str:
    """A problem as people read it: where, what was found, what was expected, and a hint on a line of its own."""
    where = ": ".join(str(problem[part]) for part in ("file", "key") if problem.get(part))
    text = f"{kind}: {where}: found {problem.get('found')}, expected {problem.get('expected')}"
    return f"{text}\n  hint: {problem['hint']}" if problem.get("hint") else text


def environment(file: Path, place: Place = SYSTEM, profile: str | None = None) -> dict[str, str] | None:
    """The variables of the application's environment-file, read again; None when it has none. `profile`: see load.

    None too when the configuration is invalid: then the master refuses, and says why, better than a guess here would.
    Raises CommandError when the environment file itself cannot be used.
    """
    try:
        path = load(file, place, profile).environment_file
    except Invalid:
        return None
    if path is None:
        return None
    try:
        return read_environment(path)
    except OSError as e:
        raise CommandError(
            f"{path}: {e.strerror}", Exit.INVALID, hint=f"it is the environment-file of {file}"
        ) from None
    except EnvironmentFileError as e:
        raise CommandError(f"{path}: {e}", Exit.INVALID, hint=f"it is the environment-file of {file}") from None


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
