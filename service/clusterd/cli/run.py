"""`clusterd run`: the same master in the foreground, without systemd, root or a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clusterd.cli import profile
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.files import invalid
from clusterd.config import names
from clusterd.config.environment import EnvironmentFileError
from clusterd.config.load import Invalid, from_run, load
from clusterd.config.places import MAX_RUNTIME, MAX_RUNTIME_APP
from clusterd.config.problem import Problem
from clusterd.config.settings import Limits, Sandbox, Settings
from clusterd.shell.listeners import ListenError


@click.command(short_help="Serve an application in the foreground.")
@click.argument("app", metavar="[APP|FILE.toml]", required=False)
@click.option(
    "--listen",
    "-l",
    metavar="ADDRESS",
    multiple=True,
    help="Where to listen; several are possible.",
    show_default="127.0.0.1:8000",
)
@click.option("--workers", "-w", metavar="N", help="How many workers, or 'auto': one per core.", show_default="auto")
@click.option("--directory", "-d", metavar="DIR", help="Where the application lives and runs.", show_default="here")
@click.option(
    "--python", metavar="PATH", help="Its interpreter.", show_default="the active virtual environment's, else this one"
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "uvicorn", "granian", "waitress"]),
    help="The server in the workers.",
    show_default="auto",
)
@click.option("--tls-certificate", metavar="FILE", help="Speak HTTPS: the certificate and its chain, in PEM.")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, in PEM.")
@profile.once
@click.option("--command", metavar="COMMAND", help="Instead of APP: a program that takes LISTEN_FDS, as one string.")
@click.option(
    "--name", metavar="NAME", help="What it is called in logs and status.", show_default="run, or the file's name"
)
@click.option(
    "--runtime", metavar="DIR", type=click.Path(file_okay=False),
    help="Where to put the control socket.", show_default="a new temporary directory",
)  # fmt: skip
def run(
    app: str | None, name: str | None, runtime: str | None, command: str | None, wanted: str | None, **options: Any
) -> int:
    """Serve an application in the foreground until Ctrl-C or SIGTERM, which drain the workers; once more cuts it short.

    APP is MODULE:OBJECT, an ASGI or WSGI application, or MODULE:FACTORY(). FILE.toml is a configuration file; options
    given besides it win. SIGHUP reloads, and so does 'clusterd reload DIR/control' with the directory of --runtime.
    """
    keys = given(options)
    settings = assemble(app, name, command, keys, wanted)
    for table in unit_only(settings):
        click.echo(f"warning: {settings.file}: {table}: only systemd can bring it into effect, ignoring", err=True)
    accounts = [key for key in ("user", "group") if getattr(settings, key)]
    if accounts:
        click.echo(
            f"warning: {settings.file}: {' and '.join(accounts)}: only systemd changes accounts, ignoring", err=True
        )
    from clusterd import master  # late: only this subcommand needs it, and it is most of the program

    try:
        where = None if runtime is None else directory(runtime, MAX_RUNTIME if settings.command else MAX_RUNTIME_APP)
        return master.run(settings, where, [*named(keys), *(["name"] if name else [])])
    except (OSError, ListenError, EnvironmentFileError) as e:
        raise CommandError(f"{settings.name}: {e}", Exit.REFUSED) from None


def directory(runtime: str, most: int) -> Path:
    """That of --runtime, made where it is not there. Raises CommandError."""
    path = Path(runtime).absolute()
    if not runtime:
        raise CommandError("--runtime: its value is empty", Exit.INVALID)
    if (length := len(os.fsencode(path))) > most:
        found = f"'{path}' has {length}"
        raise CommandError(f"--runtime: at most {most} bytes, for its sockets: {found}", Exit.INVALID)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise CommandError(f"--runtime: '{path}': {e.strerror}", Exit.INVALID) from None
    return path


def unit_only(settings: Settings) -> list[str]:
    """The tables of the file that only systemd can bring into effect."""
    asked = {
        "sandbox": settings.sandbox != Sandbox(),
        "limits": settings.limits != Limits(),
        "credentials": bool(settings.credentials),
    }
    return [table for table, given in asked.items() if given]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as keys of the file; paths made absolute. Raises CommandError."""
    found = {key: value for key, value in options.items() if value not in (None, ())}
    for key, value in found.items():
        # As --tls-key "$UNSET": without it something else would be served than was asked for.
        if "" in (value if isinstance(value, tuple) else [value]):
            raise CommandError(f"--{key.replace('_', '-')}: its value is empty", Exit.INVALID)
    if "listen" in found:
        found["listen"] = list(found["listen"])
    if "workers" in found and re.fullmatch("[0-9]{1,9}", found["workers"]):
        found["workers"] = int(found["workers"])
    for key in ("directory", "python", "tls_certificate", "tls_key"):
        if key in found:
            found[key] = os.path.abspath(found[key])  # not resolved: a venv's python is a symbolic link
    tls = {key: found.pop(f"tls_{key}") for key in ("certificate", "key") if f"tls_{key}" in found}
    if tls:
        found["tls"] = tls
    return found


def named(keys: Mapping[str, Any]) -> list[str]:
    """`keys`, those of tables with the table's name: "tls.key"."""
    return [
        f"{key}.{below}" if below else key
        for key, value in keys.items()
        for below in (value if isinstance(value, dict) else ("",))
    ]


def assemble(
    app: str | None, name: str | None, command: str | None, keys: dict[str, Any], wanted: str | None = None
) -> Settings:
    """The Settings of the command line. Raises CommandError, the problems printed."""
    if wanted is not None and not (app or "").endswith(".toml"):
        raise CommandError("--profile is of a file", Exit.INVALID, hint="clusterd run FILE.toml --profile PROFILE")
    words = words_of(command)
    if name is not None and not names.is_name(name):
        raise CommandError(f"--name: '{name}' cannot be a name", Exit.INVALID, hint=f"a name is {names.NAME}")
    if app is None and words is None:
        raise CommandError(
            "nothing to run", Exit.INVALID, hint="clusterd run MODULE:OBJECT, or clusterd run --command 'PROGRAM ...'"
        )
    if app is not None and words is not None:
        raise CommandError(
            "both APP and --command: an application is one or the other",
            Exit.INVALID,
            hint="leave one of them out",
        )
    try:
        if app is not None and app.endswith(".toml"):
            settings = load(Path(app).absolute(), profile=wanted, over=keys)
            return replace(settings, name=name) if name else settings
        return from_run(app=app, command=words, **({"name": name} if name else {}), **keys)
    except Invalid as e:
        raise refused(app, keys, e.problems) from None


def refused(app: str | None, keys: Mapping[str, Any], problems: Iterable[Problem]) -> CommandError:
    """Prints the problems, those of options as such, and returns the error that sums them up."""
    if not (app or "").endswith(".toml"):
        return invalid(Path("clusterd run"), problems)
    options = named(keys)
    told = [
        replace(problem, file="clusterd run", key=f"--{problem.key.replace('.', '-')}")
        if problem.key.partition("[")[0] in options
        else problem
        for problem in problems
    ]
    return invalid(Path(app or ""), told)


def words_of(command: str | None) -> list[str] | None:
    if command is None:
        return None
    try:
        return shlex.split(command)
    except ValueError as e:
        raise CommandError(f"--command: {e}", Exit.INVALID) from None
