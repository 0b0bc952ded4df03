"""`clusterd reload NAME --host HOST --host HOST`: a reload over machines, one after another, by systemctl over ssh."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from clusterd.cli import systemd
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance
from clusterd.cli.progress import Progress

PATIENCE = 60.0
"""Seconds for a question over ssh, which connects for each."""
_HOST = re.compile(r"(?!-)[\w.@:%\[\]-]{1,255}", re.ASCII)


def given(_context: click.Context, _option: click.Parameter, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of --host, in their order: names for ssh, none twice."""
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise CommandError(f"--host '{host}': expected what ssh takes: [USER@]HOST[:PORT]", Exit.INVALID)
        if hosts.count(host) > 1:
            raise CommandError(f"--host '{host}' is given twice", Exit.INVALID)
    return hosts


option = click.option(
    "--host",
    "hosts",
    metavar="HOST",
    multiple=True,
    callback=given,
    help="On that machine, over ssh; several times: one after another.",
)


def reload(instance: Instance, hosts: Sequence[str], *, quiet: bool) -> None:
    """Reload the instance on each of `hosts` in turn; the first that fails is the last that was begun."""
    if instance.file is None or instance.place.user:
        raise CommandError("--host: expected the name of an application of the system's", Exit.INVALID)
    manager, name = systemd.Systemd(), instance.name
    unit = systemd.service(name)
    for host in hosts:
        if (why := _unready(manager, host, unit)) is not None:
            raise CommandError(f"{name}: {host}: {why}; nothing was reloaded", Exit.UNREACHABLE)
    for number, host in enumerate(hosts):
        try:
            with Progress(f"{name}: reload on {host}", quiet=quiet):
                status, text = manager.systemctl(f"--host={host}", "reload", "--", unit, patience=None)
        except KeyboardInterrupt:
            raise CommandError(
                f"{name}: interrupted; the reload on {host} goes on, {_rest(hosts, number)}", Exit.INTERRUPTED
            ) from None
        said = _status(manager, host, unit)
        if status:
            raise CommandError(
                f"{name}: {host}: reload failed: {said or text}; {_rest(hosts, number)}",
                Exit.REFUSED,
                hint=f"ssh {host} journalctl -u cluster@{name}",
            )
        click.echo(f"{name}: {host}: {said}")


def _unready(manager: systemd.Systemd, host: str, unit: str) -> str | None:
    """Why nothing can be reloaded there."""
    status, text = _ask(manager, host, unit, "ActiveState")
    if status:
        return text or f"systemctl exited {status}"
    return None if text == "active" else f"{unit} is {text}"


def _status(manager: systemd.Systemd, host: str, unit: str) -> str:
    """What the application says of itself: the receipt of the reload, or why it was refused."""
    status, text = _ask(manager, host, unit, "StatusText")
    return "" if status else text


def _ask(manager: systemd.Systemd, host: str, unit: str, what: str) -> tuple[int, str]:
    """A property of the unit there; or the exit status, and why it cannot be had."""
    asked = ("show", f"--property={what}", "--value", "--", unit)
    return manager.systemctl(f"--host={host}", *asked, patience=PATIENCE)


def _rest(hosts: Sequence[str], number: int) -> str:
    """What became of the others."""
    done, left = hosts[:number], hosts[number + 1 :]
    return f"done before: {', '.join(done) or 'none'}; not begun: {', '.join(left) or 'none'}"
