"""`clusterd scale`: more or fewer workers, at once."""

from __future__ import annotations

import re

import click

from clusterd.cli import control
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.files import count
from clusterd.cli.instances import Instance, InstanceType


@click.command(
    short_help="Have more or fewer workers, at once.",
    context_settings={"ignore_unknown_options": True},  # "-1" is an argument
)
@click.argument("instance", metavar="NAME", type=InstanceType())
@click.argument("workers", metavar="N|+K|-K|file")
def scale(instance: Instance, workers: str) -> None:
    """Have N workers, K more or K fewer, and wait until it is so; "file": as many as the file says.

    Nothing is lost: new workers are forked from the code in memory; those that are too many get no more connections,
    finish what they have and leave. It holds over reloads, crashes and upgrades, until the service stops or a reload
    finds another number in the file.
    """
    if workers != "file" and re.fullmatch(r"[+-]?[0-9]{1,4}", workers) is None:
        raise CommandError(f"expected a number of workers, +K, -K or 'file', found '{workers}'", Exit.INVALID)
    for reply in control.call(instance, "Scale", {"workers": workers}, more=True):
        wanted, serving, problem = reply.get("workers"), reply.get("serving"), reply.get("problem")
        if problem:
            raise CommandError(
                f"{instance.name}: {serving} of {wanted} workers serve: {problem}",
                Exit.REFUSED,
                hint="it goes on trying",
            )
        click.echo(f"{instance.name}: {count(int(wanted or 0), 'worker')}")
