"""`clusterd start` and `clusterd stop`: the service and its socket together, with the reason when they fail."""

from __future__ import annotations

import os
import time

import click

from clusterd.cli import control, files, profile, systemd
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance, InstanceType
from clusterd.cli.progress import Progress


@click.command(short_help="Start an instance and its socket, or say why not.")
@click.argument("instance", metavar="NAME", type=InstanceType())
@profile.choose
def start(instance: Instance, wanted: str | None) -> None:
    """Start an instance: systemctl daemon-reload, then its socket and its service.

    Checks the file first, waits until the workers serve, and says why when they do not. Starts it now; what starts at
    boot is 'systemctl enable cluster@NAME'. Needs root, or --user.
    """
    need_unit(instance)
    need_rights("start", instance)
    manager = systemd.of(instance.place)
    assert instance.file is not None
    # all problems in one go, before anything is touched
    files.loaded(instance.file, instance.place, among=True, profile=wanted)
    profile.refuse_running(instance, wanted)
    profile.keep(instance, wanted)
    began = time.time()
    with Progress(f"starting cluster@{instance.name}"):
        status, text = manager.systemctl("daemon-reload", patience=120)
        if status == 0:
            # no limit here: the master's own deadlines end every start
            units = (systemd.socket(instance.name), systemd.service(instance.name))
            status, text = manager.systemctl("start", *units, patience=None)
    if status:
        raise failed(instance, text, began)
    found = control.status(instance)
    if not found["slots"]["live"]:  # it had failed before, and stays up to answer 503 and to heal by itself
        raise failed(instance, str(found.get("problem") or found["summary"]), began)
    click.echo(f"{instance.name}: {found['summary']}, on {', '.join(found['listen'])}")


@click.command(short_help="Stop an instance and its socket.")
@click.argument("instance", metavar="NAME", type=InstanceType(must_exist=False))
def stop(instance: Instance) -> None:
    """Stop an instance and its socket: requests in flight are answered, the addresses are given up.

    'systemctl stop cluster@NAME' alone leaves the socket listening, and the next connection starts the service again.
    Needs root, or --user.
    """
    need_unit(instance)
    need_rights("stop", instance)
    manager = systemd.of(instance.place)
    with Progress(f"stopping cluster@{instance.name}"):
        units = (systemd.socket(instance.name), systemd.service(instance.name))
        status, text = manager.systemctl("stop", *units, patience=None)
    if status:
        raise CommandError(f"{instance.name}: {text}", Exit.REFUSED)
    click.echo(f"{instance.name}: stopped")


def need_unit(instance: Instance) -> None:
    if instance.file is None:
        raise CommandError(
            f"'{instance.control}' is no unit of systemd's",
            Exit.INVALID,
            hint="'clusterd run' is stopped with Ctrl-C or SIGTERM",
        )


def need_rights(verb: str, instance: Instance) -> None:
    """Root for the system's applications; for a user's own, that a systemd of that user runs."""
    if not instance.place.user:
        if os.geteuid() != 0:
            raise CommandError(
                f"{verb} {instance.name}: needs root", Exit.NOT_ALLOWED, hint=f"sudo clusterd {verb} {instance.name}"
            )
    elif not os.path.exists(f"{os.path.dirname(instance.place.runtime)}/systemd/private"):
        raise CommandError(
            f"{verb} {instance.name}: no systemd of yours runs: nothing in '{os.path.dirname(instance.place.runtime)}'",
            Exit.UNREACHABLE,
            hint="'sudo loginctl enable-linger YOU' starts it, now and at each boot; so does logging in",
        )


def failed(instance: Instance, text: str, began: float) -> CommandError:
    """The reason, from the most to the least exact: what systemd cannot do with the units, STATUS=, its own words.

    The journal since `began` (seconds of the wall clock) is printed before.
    """
    manager = systemd.of(instance.place)
    if found := manager.obstacle(instance.name):
        reason, hint = found
        return CommandError(f"{instance.name} did not start: {reason}", Exit.REFUSED, hint=hint)
    for line in manager.journal(instance.name, since=began):
        click.echo(f"  {line}", err=True)
    status = manager.show(systemd.service(instance.name), "StatusText").get("StatusText", "")
    reason = status or (text.splitlines() or ["it failed"])[0]
    return CommandError(
        f"{instance.name} did not start: {reason}",
        Exit.REFUSED,
        hint=f"{instance.log}; {instance.clusterd('check')}",
    )
