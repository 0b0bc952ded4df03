"""`clusterd check`: everything that is wrong with a file, and what it would change of what runs."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from clusterd.cli import certificates, control, profile, systemd
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.files import count, describe
from clusterd.cli.instances import Places, find, places
from clusterd.config import claims, reach
from clusterd.config.certificates import unread
from clusterd.config.granted import told
from clusterd.config.load import Invalid, load_among, surroundings
from clusterd.config.problem import Problem
from clusterd.config.settings import TOP, Settings


@dataclass
class Report:
    """What was found about one file. `changes` is None when no instance of that name runs, or it cannot be asked."""

    name: str
    file: Path
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    changes: list[dict[str, Any]] | None = None
    """As Changes() of the control interface has them: key, old, new, applies, text."""
    how: str = ""
    """The command that brings all changes into effect."""
    note: str = ""
    sandbox: list[str] = field(default_factory=list)
    """What the service may do besides, or may not, because the file says or implies it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "file": str(self.file),
            "valid": not self.problems,
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": [problem.to_json() for problem in self.warnings],
            "changes": self.changes,
            "how": self.how,
            "sandbox": self.sandbox,
        }


@click.command(short_help="Check files, and say what a reload would change.")
@click.argument("targets", metavar="[NAME|FILE]...", nargs=-1)
@profile.once
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, an object for each file.")
@click.pass_context
def check(context: click.Context, targets: tuple[str, ...], as_json: bool, wanted: str | None) -> None:
    """Check configuration files: every problem at once, with what was found, what is expected and a hint.

    NAME means its file in the configuration directory; anything with a slash or ending in .toml is a FILE; without
    either, all files are checked, and all profiles of each. Addresses that overlap with another file's are a problem.
    Where an instance of that name runs, it says too what a reload would change and what needs a restart. Exits 2 when a
    file has a problem.
    """
    where = places(context)
    files = [target_file(target, where) for target in targets] or [where.file(name) for name in where.known()]
    if not files:
        raise CommandError(f"no *.toml in {where.config}", Exit.INVALID, hint="see cluster.toml(5)")
    reports = [examine(file, where, wanted) for file in files]
    if as_json:
        click.echo(json.dumps([report.to_json() for report in reports], indent=2))
    else:
        for report in reports:
            show(report)
    bad = sum(bool(report.problems) for report in reports)
    if bad:
        context.exit(int(Exit.INVALID))


def target_file(target: str, where: Places) -> Path:
    if "/" in target or target.endswith(".toml"):
        return Path(target)
    found = find(target, where)
    assert found.file is not None
    return found.file


def examine(file: Path, where: Places, profile: str | None) -> Report:
    """Check one file; its problems are in the report, never raised. `profile`: see load."""
    report = Report(file.name.removesuffix(".toml"), file)
    try:
        settings = load_among(file.absolute(), claims.serving(where.known(), str(where.runtime)), where.place, profile)
    except Invalid as e:
        report.problems = e.problems
        return report
    report.sandbox = [] if where.place.user else told(settings)
    lacks = surroundings(settings, where.place)
    wrong, report.warnings = certificates.examine(settings)
    lacks += wrong
    report.warnings += [] if where.place.user else unread(settings)
    report.warnings += swallowed(file, settings)
    for name, task in settings.task.items():
        if task.calendar and systemd.of(where.place).refuses_calendar(task.calendar):
            expected, hint = (
                "a time that systemd takes",
                "'systemd-analyze calendar' tells of each; see systemd.time(7)",
            )
            lacks.append(Problem(str(file), f"task.{name}.calendar", f'"{task.calendar}"', expected, hint))
    if settings.bus is not None and importlib.util.find_spec("redis") is None:
        expected, hint = "the daemon's Python to have the package redis", "apt install python3-redis"
        report.warnings.append(Problem(str(file), "bus", "none", expected, hint))
    if not where.place.user and reach.in_tmp(settings.directory):
        found = f"'{settings.directory}'"
        report.warnings.append(
            Problem(str(file), "directory", found, "a directory outside of /tmp and /var/tmp", reach.TMP)
        )
    installed = file.absolute() == where.file(report.name).absolute()
    # A file elsewhere may be meant for another machine, and who is neither root nor its user may see less than the
    # service does.
    if installed and (where.place.user or os.geteuid() == 0):
        report.problems = lacks
    else:
        report.warnings += lacks
    if installed:
        compare(report, where, {} if profile is None else {"profile": profile})
    return report


def swallowed(file: Path, settings: Settings) -> list[Problem]:
    """Variables that are named as a key: a line below [env] is one, wherever it was meant to be."""
    hint = "below [env] it is a variable, and nothing to clusterd: a key belongs above all tables"
    return [
        Problem(str(file), f"env.{name}", "a variable with the name of a key", f"'{name}' above all tables", hint)
        for name in settings.env
        if name in TOP
    ]


def compare(report: Report, where: Places, parameters: dict[str, Any]) -> None:
    """Fill in the changes against the running instance of that name: its master knows what it runs."""
    instance = replace(where.instance(report.name), file=report.file)
    try:
        found = control.once(instance, "Changes", parameters)
    except control.NotRunning:
        return
    except CommandError as e:
        report.note = f"cannot be compared with what runs: {e.message}"
        return
    report.changes = [change for change in found.get("changes") or [] if isinstance(change, dict)]
    report.how = str(found.get("how") or "")


def show(report: Report) -> None:
    for problem in report.problems:
        click.echo(describe(problem.to_json()), err=True)
    for problem in report.warnings:
        click.echo(describe(problem.to_json(), kind="warning"), err=True)
    if report.problems:
        click.echo(f"{report.file}: {count(len(report.problems), 'problem')}", err=True)
        return
    click.echo(f"{report.file}: valid")
    for line in report.sandbox:
        click.echo(f"  sandbox: {line}")
    if report.sandbox:
        click.echo(f"  sandbox: all of it: systemd-analyze security cluster@{report.name}.service")
    if report.note:
        click.echo(f"  {report.note}")
    if report.changes is None:
        return
    if not report.changes:
        click.echo("  as it runs: nothing would change but the code")
    for applies in ("reload", "daemon-reload", "restart", "socket restart"):
        for change in report.changes:
            if change.get("applies") == applies:
                click.echo(f"  at {applies}: {change.get('text')}")
    if report.how:
        click.echo(f"  to apply: {report.how}")
