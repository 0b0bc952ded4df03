"""`clusterd upgrade`: masters of the files now on disk, in place of those that run."""

from __future__ import annotations

import math
import time
from typing import Any

import click

from clusterd.cli import control, succession
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance, InstanceType, places

LIMIT = 60.0
"""Seconds an instance may keep the others waiting that are upgraded after it: with a reload, or out of spite."""


@click.command(short_help="Replace the master by one of the clusterd now installed.")
@click.argument("instance", metavar="NAME", type=InstanceType(), required=False)
@click.option("--all", "everything", is_flag=True, help="Every instance that runs, one after another.")
@click.pass_context
def upgrade(context: click.Context, instance: Instance | None, everything: bool) -> None:
    """Replace the master by one of the clusterd that is now installed; workers and connections are not touched.

    A reload under way is waited for. The files on disk are tried first: one that could not take over is refused, and
    the master that runs stays. The package does this for every instance; the workers' side changes at their reload.
    """
    if (instance is None) == (not everything):
        raise CommandError("expected either NAME or --all", Exit.INVALID)
    if instance is not None:
        click.echo(replaced(instance))
        return
    failed = 0
    where = places(context)
    for name in where.known():
        try:
            click.echo(replaced(where.instance(name), LIMIT))
        except control.NotRunning:
            continue
        except CommandError as e:
            e.show()
            failed += 1
    if failed:
        raise CommandError(f"{failed} not upgraded", Exit.REFUSED)


def replaced(instance: Instance, limit: float = math.inf) -> str:
    """What became of it, within `limit` seconds and what a succession takes. Raises CommandError."""
    before = control.status(instance, patience=succession.AWAITED)["master"]
    try:
        list(control.call(instance, "Upgrade", {}, more=True, patience=succession.AWAITED, limit=limit))
    except control.Lost:
        pass  # it has left
    except control.Late:
        text = f"{instance.name}: not upgraded within {limit:g} s; its master has been asked, and will when it can"
        raise CommandError(text, Exit.UNREACHABLE, hint=instance.clusterd("status")) from None
    deadline = time.monotonic() + succession.SUCCESSION
    none = CommandError(
        f"{instance.name}: no other master within {succession.SUCCESSION:g} s",
        Exit.UNREACHABLE,
        hint=instance.clusterd("status"),
    )

    def another(status: dict[str, Any]) -> str | None:
        if status["master"]["pid"] != before["pid"]:
            return f"{instance.name}: master {status['master']['pid']}, version {status['version']}"
        if time.monotonic() > deadline:
            raise none
        return None

    try:
        return succession.until(instance, another)
    except (control.NotRunning, control.Lost):
        raise none from None  # it did run, so --all is not to pass over it
