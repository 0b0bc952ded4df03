"""`clusterd import-gunicorn`: a file of ours of gunicorn's configuration."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.gunicorn import arguments, carry, reading
from clusterd.cli.gunicorn.table import GONE, TABLE
from clusterd.config.files import NoFile, read_bounded

MAX_FILE = 256 << 10
FROM_ENVIRONMENT = (
    ("workers", "WEB_CONCURRENCY", "{}"),
    ("bind", "PORT", "0.0.0.0:{}"),
    ("forwarded_allow_ips", "FORWARDED_ALLOW_IPS", "{}"),
)
"""Setting, variable, and the default that its value makes."""
ORDER = ("not read", "changed", "not wanted", "carried over")


@click.command("import-gunicorn", short_help="Write a configuration file from gunicorn's.")
@click.argument("what", metavar="[FILE|COMMAND]...", nargs=-1)
@click.option("--app", metavar="MODULE:OBJECT", help="The application, where FILE does not name it.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE.toml", help="Write it there.",
              show_default="standard output")  # fmt: skip
def import_gunicorn(what: tuple[str, ...], app: str | None, output: Path | None) -> None:
    """Write a configuration file from gunicorn's, and say of each setting what became of it.

    FILE is a gunicorn.conf.py; COMMAND, after '--', is gunicorn's command line as in ExecStart= or a Procfile, and
    the file it names with -c is read too: clusterd import-gunicorn -- gunicorn -w 4 app:app. FILE is not run: what it
    sets is worked out from its text, and what cannot be is named. The configuration goes to standard output, the
    account to standard error: each setting was carried over, changed, is not wanted here, or could not be read.
    """
    if not what:
        raise CommandError("nothing to import", Exit.INVALID,
                           hint="clusterd import-gunicorn gunicorn.conf.py, or -- gunicorn -w 4 app:app")  # fmt: skip
    draft, left_out = imported(what, app)
    text = "# From gunicorn's configuration, by clusterd import-gunicorn.\n" + carry.text(draft)
    for outcome in ORDER:
        for note in draft.notes:
            if note.outcome == outcome:
                click.echo(f"{outcome}: {note.setting}: {note.text}", err=True)
    for each in left_out:
        click.echo(f"not read: {each}", err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"'{output}' exists already", Exit.REFUSED, hint="give another name to -o") from None
    except OSError as e:
        raise CommandError(f"'{output}': {e.strerror}", Exit.REFUSED) from None


def imported(what: tuple[str, ...], app: str | None) -> tuple[carry.Draft, list[str]]:
    """What became of everything, and what of the file was not read, in words."""
    file = Path(what[0]) if len(what) == 1 and what[0].endswith(".py") else None
    line = arguments.Line()
    try:
        outer = arguments.options(shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")))
        if file is None:
            line = arguments.command_line(what)
    except (arguments.UsageError, ValueError) as e:
        raise CommandError(f"gunicorn's command line: {e}", Exit.INVALID) from None
    values: dict[str, reading.Value | reading.Unread] = {}
    values |= outer
    values |= line.values
    directory = os.getcwd() if file is None else str(file.absolute().parent)
    named = values.pop("config", None)
    if file is None and isinstance(named, reading.Value):
        name = str(named.value).removeprefix("file:")
        if name.startswith("python:"):
            raise CommandError(
                f"-c {name}: a module is not imported here",
                Exit.INVALID,
                hint=f"give its file: -c {name[7:].replace('.', '/')}.py",
            )
        file = Path(directory, name)
    elif file is None and Path("gunicorn.conf.py").exists():
        file = Path(directory, "gunicorn.conf.py")  # as gunicorn does
    left_out: list[str] = []
    if file is not None:
        found = configuration(file)
        left_out = found.left_out
        values = {name: each for name, each in found.values.items() if name in TABLE} | values
        values |= {name: reading.Value("a function") for name in found.functions if name in TABLE}
        left_out += [f"{name}: {why}" for name, why in GONE.items() if name in found.values]
    if app is not None:
        values["wsgi_app"] = reading.Value(app)
    if "wsgi_app" not in values:
        where = "the command line" if file is None else f"'{file}'"
        raise CommandError(f"{where} does not name the application", Exit.INVALID, hint="--app MODULE:OBJECT")
    values = defaults(line.environment) | values
    if line.environment:
        before = [f"{name}={text}" for name, text in line.environment.items()]
        known = values.get("raw_env")
        more = known.value if isinstance(known, reading.Value) and isinstance(known.value, list) else []
        values["raw_env"] = reading.Value(before + more)
    draft = carry.carry(values, directory, interpreter(line.program, directory))
    if "app" not in draft.keys or not draft.keys["app"] or "listen" not in draft.keys:
        lacks = "app" if not draft.keys.get("app") else "listen"
        why = next((n.text for n in draft.notes if n.outcome == "not read" and n.setting in ("wsgi_app", "bind")), "")
        raise CommandError(f"no '{lacks}' can be written: {why}", Exit.INVALID)
    return draft, left_out


def defaults(environment: Mapping[str, str]) -> dict[str, reading.Value | reading.Unread]:
    """What gunicorn has of its environment where nothing else says it."""
    found: dict[str, reading.Value | reading.Unread] = {}
    for setting, name, template in FROM_ENVIRONMENT:
        if environment.get(name):
            found[setting] = reading.Value(template.format(environment[name]), (f"the environment variable {name}",))
    return found


def configuration(file: Path) -> reading.Read:
    try:
        return reading.read(read_bounded(str(file), MAX_FILE).decode(), str(file))
    except SyntaxError as e:
        raise CommandError(f"{file}: line {e.lineno}: {e.msg}", Exit.INVALID, hint="it is a Python file") from None
    except NoFile as e:
        raise CommandError(f"{file}: {e}, expected a gunicorn.conf.py", Exit.INVALID) from None
    except OSError as e:
        raise CommandError(f"{file}: {e.strerror}", Exit.INVALID) from None
    except ValueError as e:
        raise CommandError(f"{file}: {e}", Exit.INVALID, hint="it is a Python file in UTF-8") from None


def interpreter(program: str, directory: str) -> str | None:
    """That beside gunicorn, else of a virtual environment in the directory, else of the active one."""
    candidates = [os.path.dirname(os.path.join(directory, program))] if "/" in program else []
    candidates += [os.path.join(directory, name, "bin") for name in (".venv", "venv")]
    if active := os.environ.get("VIRTUAL_ENV"):
        candidates.append(os.path.join(active, "bin"))
    found = (os.path.join(each, "python") for each in candidates)
    return next((path for path in found if os.access(path, os.X_OK)), None)
