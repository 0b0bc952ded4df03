"""`clusterd init`: from an application to a file that runs it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import click

from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.files import invalid
from clusterd.cli.instances import Places, places
from clusterd.config import names
from clusterd.config.load import Invalid, load_all
from clusterd.config.reader import read
from clusterd.discovery import access, interpreter, look, writing
from clusterd.discovery.found import Candidate, NothingFound
from clusterd.shell import procnet

PORTS = range(8000, 8999)
VAGUE = ("app", "src", "current", "web", "server", "backend", "project", "www", "site", "code")
"""Directories whose name says nothing: then the one above is asked."""


@click.command(short_help="Look at an application, and write a file that runs it.")
@click.argument("app", metavar="[APP|DIRECTORY]", required=False)
@click.option("--name", metavar="NAME", help="What to call it.", show_default="after its directory")
@click.option("--directory", "-d", metavar="DIR", help="Where the application is.", show_default="here")
@click.option("--python", metavar="PATH", help="Its interpreter.", show_default="of its virtual environment")
@click.option("--listen", "-l", metavar="ADDRESS", help="Where to listen.", show_default="a free port of 127.0.0.1")
@click.option("--output", "-o", metavar="FILE", help="Where to write it.", show_default="NAME.toml in /etc/clusterd")
@click.option("--stdout", is_flag=True, help="Write nothing, print it.")
@click.pass_context
def init(
    context: click.Context,
    app: str | None,
    name: str | None,
    directory: str | None,
    python: str | None,
    listen: str | None,
    output: str | None,
    stdout: bool,
) -> None:
    """Look at an application, and write a commented file that runs it.

    APP is MODULE:OBJECT or a Python file; without it, the directory is searched: pyproject.toml, Procfile,
    gunicorn.conf.py, manage.py, package.json, and the Python files themselves. They are read, never run: it may be done
    as root. Says what it found and what to do next. An existing file is never overwritten.

    The file is /etc/clusterd/NAME.toml for root, one's own with --user, and else NAME.toml in this directory.
    """
    where = places(context)
    candidate, others = chosen(app, directory)
    called = name or guess(candidate.directory)
    if not names.is_name(called):
        raise CommandError(
            f"'{called}' cannot be a name", Exit.INVALID, hint=f"a name is {names.NAME}: clusterd init --name NAME"
        )
    found = interpreter.find(candidate.directory, os.environ, os.path.abspath(python) if python else None)
    user, why = account(candidate, Path(found.path), where)
    plan = writing.Plan(called, candidate, found, listen or f"127.0.0.1:{free_port(where)}", user, why)
    text = writing.toml(plan)
    try:
        read(called, None, tomllib.loads(text), where.place)
    except Invalid as e:
        raise invalid(Path(called), e.problems) from None
    file = None if stdout else destination(called, output, where)
    report(plan, others, err=stdout)
    if file is None:
        click.echo(text, nl=False)
    else:
        write(file, text)
        following(plan, file, where)


def chosen(app: str | None, directory: str | None) -> tuple[Candidate, list[Candidate]]:
    """The application meant. Raises CommandError."""
    base, reference, module = Path(directory or ".").absolute(), app, None
    if app is not None and Path(base / app).exists():
        path = base / app
        base, reference = (path, None) if path.is_dir() else (path.parent, None)
        module = path.stem if path.suffix == ".py" else None
    base = Path(os.path.normpath(base))
    if not base.is_dir():
        raise CommandError(f"'{base}' is no directory", Exit.INVALID)
    try:
        return look.choose(base, reference, module)
    except NothingFound as e:
        raise CommandError(str(e), Exit.INVALID, hint=e.hint) from None


def guess(directory: Path) -> str:
    """After the project, or the first directory upwards whose name says something."""
    for text in (look.project_name(directory), *(part.name for part in (directory, *directory.parents))):
        if (name := names.derived(text)) and name not in VAGUE:
            return name
    return "app"


def account(candidate: Candidate, python: Path, where: Places) -> tuple[str | None, str]:
    """The account that can read the application, when an own one of the service could not; and why."""
    directory = access.closed([candidate.directory, python.parent])
    if directory is None or where.place.user:
        return None, ""
    if owner := access.owner(candidate.directory):
        return owner, f"'{directory}' is closed to others, so it runs as who owns it."
    return None, f"'{directory}' is closed to all but root: open it with chmod o+rx, or deploy to /srv"


def free_port(where: Places) -> int:
    """One that no other file has and nobody listens on."""
    try:
        files = load_all(where.config, (), where.place).settings.values()
    except OSError:
        files = {}.values()
    taken = {address.port for each in files for address in each.listen}
    taken |= {listener.port for listener in procnet.listeners()}
    return next((port for port in PORTS if port not in taken), PORTS[0])


def destination(name: str, output: str | None, where: Places) -> Path:
    if output is not None:
        return Path(output)
    return where.file(name) if os.geteuid() == 0 or where.place.user else Path(f"{name}.toml")


def write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8") as f:
            f.write(text)
    except FileExistsError:
        raise CommandError(
            f"{file} exists, and is left as it is", Exit.INVALID, hint="--stdout to compare, --output for another file"
        ) from None
    except OSError as e:
        raise CommandError(f"{file}: {e.strerror}", Exit.NOT_ALLOWED, hint="--output for another file") from None


def report(plan: writing.Plan, others: list[Candidate], *, err: bool) -> None:
    c, python = plan.candidate, plan.interpreter
    kind = "" if c.interface == "unknown" else f" ({c.interface.upper()})"
    lines = [f"found {c.framework}{kind}: {c.reference}, in {c.why}"]
    if others:
        lines.append(f"  besides: {', '.join(other.reference for other in others[:5])}")
    if not c.command:
        version = f" {python.version}" if python.version else ""
        lines.append(f"  interpreter: {python.path}{version} ({python.why})")
    if c.health:
        lines.append(f"  health check: {c.health}")
    if plan.user:
        lines.append(f"  user: {plan.user}: {plan.why_user}")
    elif plan.why_user:
        lines.append(f"  note: {plan.why_user}")
    if any(str(c.directory).startswith(place) for place in ("/tmp/", "/var/tmp/")):
        lines.append("  note: a service has a /tmp of its own: move it, to /srv for example, or use 'clusterd run'")
    lines += [f"  note: {note}" for note in c.notes]
    for line in lines:
        click.echo(line, err=err)


def following(plan: writing.Plan, file: Path, where: Places) -> None:
    click.echo(f"wrote {file}")
    program = where.place.tool("clusterd")
    steps = [command] if (command := writing.needs(plan)) else []
    if file.absolute() == where.file(plan.name).absolute():
        steps += [f"{program} check {plan.name}", f"{program} start {plan.name}"]
    else:
        steps += [f"clusterd check {file}", f"clusterd run {file}"]
    click.echo("next: " + "\n      ".join(steps))
