"""From a file to Settings, or to everything that is wrong with it. Nothing else here reads TOML."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterd.config import claims, granted, profiles, reach
from clusterd.config.environment import EnvironmentFileError, read_environment
from clusterd.config.files import NoFile, Shared, read_bounded, read_own
from clusterd.config.kinds import Wrong
from clusterd.config.names import NAME, is_name
from clusterd.config.places import SYSTEM, Place
from clusterd.config.problem import Invalid, Problem
from clusterd.config.reader import read
from clusterd.config.settings import Settings, row_of

MAX_FILE = 256 << 10
"""Bytes of a file; people write a hundredth of it."""
MAX_FILES = 1000

_NEWLINE = b"\n"
_BOM = b"\xef\xbb\xbf"
_BARE = re.compile(r"\s*([a-z-]+)\s*=\s*([A-Za-z0-9_./:%@+-]+)\s*(?:#.*)?")
_HEADER = re.compile(r"\s*\[([A-Za-z0-9_.-]+)\]\s*(?:#.*)?")
_SYNTAX = {
    "Invalid value": 'text stands in quotes: app = "hello:app"',
    "Expected '=' after a key": 'a line is KEY = VALUE, such as app = "hello:app"; [TABLE] begins a table',
    "Cannot overwrite a value": "the key is there already: give it once",
    "Illegal character '\\n'": "a quote is not closed on that line",
}
"""How tomllib begins what it says of mistakes that other formats lead to; what to do."""

__all__ = ["Invalid", "Loaded", "Problem", "from_run", "load", "load_all", "load_among", "surroundings"]


@dataclass(frozen=True)
class Loaded:
    """A directory of files: the good ones by name, and the problems of the others by name."""

    settings: Mapping[str, Settings]
    problems: Mapping[str, list[Problem]]


def load(
    path: str | os.PathLike[str],
    place: Place = SYSTEM,
    profile: str | None = None,
    over: Mapping[str, Any] | None = None,
) -> Settings:
    """The Settings of one file, NAME.toml. Raises Invalid. Its neighbours are not looked at: `load_among` does.

    `place` is what runs it: a user's manager can do less. `profile` None: the one that was chosen, which stands beside
    the file; "": none. `over`: keys of the file that stand for its own, tables as dicts.
    """
    file = os.fspath(path)
    name = _name(file)
    return read(name, file, _read(file, place), place, _chosen(file) if profile is None else profile, over)


def load_all(
    directory: str | os.PathLike[str],
    serving: Collection[str] | None = None,
    place: Place = SYSTEM,
    known: Mapping[str, Settings] | None = None,
) -> Loaded:
    """Every NAME.toml of `directory`; of two whose addresses overlap, the one that loses has a problem naming both.

    `serving` are the instances that run, which keep their addresses; None: as seen in the runtime directory of `place`.
    `known` are those that were read already.
    """
    good: dict[str, Settings] = {}
    bad: dict[str, list[Problem]] = {}
    for path in _files(directory):
        try:
            good[path.stem] = (known or {}).get(path.stem) or load(path, place)
        except Invalid as e:
            bad[path.stem] = e.problems
    refused = _overlaps(good, claims.serving(good, place.runtime) if serving is None else serving)
    return Loaded({n: s for n, s in good.items() if n not in refused}, bad | {n: [p] for n, p in refused.items()})


def load_among(
    path: str | os.PathLike[str],
    serving: Collection[str] | None = None,
    place: Place = SYSTEM,
    profile: str | None = None,
) -> Settings:
    """As `load`, and Invalid too when the file's addresses belong to another of its directory. What a master uses."""
    settings = load(path, place, profile)
    others = load_all(Path(path).parent, serving, place, {settings.name: settings})
    if settings.name in others.problems and settings.name not in others.settings:
        raise Invalid(others.problems[settings.name])
    return settings


def from_run(
    *, app: str | None = None, command: Iterable[str] | None = None, name: str = "run", **keys: Any
) -> Settings:
    """Settings without a file, for `clusterd run`: `keys` are those of the file, tables as dicts, '_' for '-'.

    Unless given, the directory is the current one, the interpreter that of the active virtual environment. Raises
    Invalid.
    """
    table = {key.replace("_", "-"): value for key, value in keys.items() if value is not None}
    table.setdefault("listen", "127.0.0.1:8000")
    table.setdefault("directory", os.getcwd())
    if app is not None:
        active = os.environ.get("VIRTUAL_ENV")
        table["app"] = app
        table.setdefault("python", f"{active}/bin/python" if active else sys.executable)
    if command is not None:
        table["command"] = list(command)
    return read(name, None, table)


def surroundings(settings: Settings, place: Place = SYSTEM, *, unit: bool = True) -> list[Problem]:
    """What the machine lacks for these Settings: directory, interpreter, program, environment file, and, where a `unit`
    is made of them, what that has of the machine.

    Apart from `load`, because it is true only for who asks, and when: the service's user may see less than root.
    """
    file = settings.file or settings.name
    problems: list[Problem] = []
    if not os.path.isdir(settings.directory):
        hint = _refusing(settings.directory) or reach.unlike_directory(settings.directory)
        if unit and not place.user and os.geteuid() != 0 and reach.in_tmp(settings.directory):
            hint = reach.TMP
        problems.append(Problem(file, "directory", f"'{settings.directory}'", "an existing directory", hint))
    elif not os.access(settings.directory, os.X_OK):
        found = f"'{settings.directory}', which user {os.geteuid()} may not enter ({reach.owner(settings.directory)})"
        hint = "give its owner as 'user', or open it with chmod o+x"
        problems.append(Problem(file, "directory", found, "a directory that its user may enter", hint))
    program = settings.python if settings.app else None
    if settings.command and settings.command[0].startswith("/"):
        program = settings.command[0]
    if program and not (os.path.isfile(program) and os.access(program, os.X_OK)):
        key = "python" if settings.app else "command"
        hint = _refusing(program) or reach.unlike_program(program)
        problems.append(Problem(file, key, f"'{program}'", "an executable file", hint))
    if settings.environment_file:
        try:
            read_environment(settings.environment_file)
        except PermissionError:
            # systemd reads it as root and passes it on: not to be able to is the point of such a file
            if place.user:
                found = f"'{settings.environment_file}', which you may not read"
                problems.append(Problem(file, "environment-file", found, "a file of your own"))
        except (OSError, EnvironmentFileError) as e:
            text = e.strerror if isinstance(e, OSError) else str(e)
            problems.append(
                Problem(file, "environment-file", f"'{settings.environment_file}': {text}", "a readable file")
            )
    if unit:
        problems += granted.missing_credentials(settings) if place.user else granted.lacking(settings)
    return problems


def _refusing(path: str) -> str:
    """Which directory on the way to `path` keeps this process out, or is missing."""
    for parent in reversed(Path(path).parents):
        if not parent.is_dir():
            return f"there is no '{parent}'"
        if not os.access(parent, os.X_OK):
            return f"'{parent}' lets user {os.geteuid()} not in: give its owner as 'user', or open it with chmod o+x"
    return ""


def _files(directory: str | os.PathLike[str]) -> list[Path]:
    # what is not a name (an editor's copy, a .toml.dpkg-old) is no configuration; `clusterd check FILE` says so of one
    found = [path for path in Path(directory).glob("*.toml") if is_name(path.stem)]
    return sorted(found)[:MAX_FILES]


def _overlaps(good: Mapping[str, Settings], serving: Collection[str]) -> dict[str, Problem]:
    problems: dict[str, Problem] = {}
    for name, claim in claims.settle({n: s.listen for n, s in good.items()}, serving).items():
        file, other = good[name].file or name, good[claim.holder].file or claim.holder
        hint = f"'{claim.holder}' listens on '{claim.held.text()}' ({other}): change one of the two files"
        problems[name] = Problem(file, "listen", f"'{claim.address.text()}'", "an address no other file has", hint)
    return problems


def _name(file: str) -> str:
    name = os.path.basename(file).removesuffix(".toml")
    if not is_name(name) or not file.endswith(".toml"):
        better = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"'{better}.toml' would do" if file.endswith(".toml") and is_name(better) else ""
        found = f"the name '{os.path.basename(file)}'"
        raise Invalid([Problem(file, "", found, f"NAME.toml, NAME being {NAME}", hint)])
    return name


def _chosen(file: str) -> str:
    try:
        return profiles.chosen(file)
    except (OSError, ValueError) as e:
        text = e.strerror if isinstance(e, OSError) else str(e)
        raise Invalid([Problem(profiles.beside(file), "", str(text), "the name of a profile")]) from e


def _read(file: str, place: Place) -> dict[str, Any]:
    """A file of `place` must be its owner's alone; any other is read by whom it is given."""
    try:
        if os.path.dirname(os.path.abspath(file)) == place.configuration:
            data = read_own(file, MAX_FILE, place.forbidden)
        else:
            data = read_bounded(file, MAX_FILE)
    except Shared as e:
        raise Invalid(
            [Problem(file, "", str(e), "a file and a directory that only their owner may write", e.hint)]
        ) from e
    except NoFile as e:
        raise Invalid([Problem(file, "", str(e), f"a TOML file of at most {MAX_FILE} bytes")]) from e
    except OSError as e:
        raise Invalid([Problem(file, "", str(e.strerror), "a readable TOML file")]) from e
    try:
        return tomllib.loads(data.decode())
    except (RecursionError, ValueError) as e:
        raise Invalid([_no_toml(file, data, e)]) from e


def _no_toml(file: str, data: bytes, error: RecursionError | ValueError) -> Problem:
    if isinstance(error, RecursionError):
        return Problem(file, "", "values nested too deep", "TOML")
    if isinstance(error, UnicodeDecodeError):
        line = _line(data, error.start)
        return Problem(file, line, "a byte that is not UTF-8", "TOML, which is UTF-8", "save it as UTF-8 in the editor")
    if isinstance(error, tomllib.TOMLDecodeError):
        return _syntax(file, data, str(error))
    # what int() says of a number it does not read, which tomllib lets through as it is
    digits = sys.get_int_max_str_digits()
    number = re.search(rb"[0-9][0-9_]{%d,}" % digits, data)
    line = _line(data, number.start()) if number else ""
    return Problem(file, line, f"a whole number of more than {digits} digits", "TOML")


def _syntax(file: str, data: bytes, text: str) -> Problem:
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", text, re.DOTALL)
    line = f"line {match[2] or data.count(_NEWLINE) + 1}" if match else ""
    column = f" at column {match[3]}" if match and match[3] else ""
    hint = "it begins with a byte order mark: save it as UTF-8 without" if data.startswith(_BOM) else ""
    hint = hint or (_unquoted(data, int(match[2])) if match and match[2] else "")
    hint = hint or next((words for start, words in _SYNTAX.items() if text.startswith(start)), "")
    return Problem(file, line, (match[1] if match else text) + column, "TOML", hint)


def _unquoted(data: bytes, line: int) -> str:
    """What to write on that line, where its value is one of the key but for the quotes."""
    above = data.decode().split("\n")[:line]
    assignment = _BARE.fullmatch(above[-1])
    if not assignment:
        return ""
    table = next((match[1] for each in reversed(above) if (match := _HEADER.fullmatch(each))), "")
    key = re.sub(r"^profile\.[^.]+\.?", "", f"{table}.{assignment[1]}" if table else assignment[1])
    try:
        row_of(key).kind.parse(assignment[2])
    except (KeyError, Wrong):
        return ""
    return f'a text stands in quotes: {assignment[1]} = "{assignment[2]}"'


def _line(data: bytes, at: int) -> str:
    return f"line {data.count(_NEWLINE, 0, at) + 1}"
