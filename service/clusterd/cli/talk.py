"""`clusterd send` and `clusterd listen`: what workers say to each other, from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from clusterd.cli import control, succession
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance, InstanceType
from clusterd.shell.interface import MAX_REQUEST
from clusterd.worker import topics
from clusterd.worker.frames import parse, text

MAX_DATA = MAX_REQUEST - 4096
"""Bytes of JSON, as a string of JSON: the rest is for what goes around it."""

name = click.argument("instance", metavar="NAME", type=InstanceType())


@click.command(
    short_help="Say something to the workers that listen.",
    context_settings={"ignore_unknown_options": True},  # "-1" is JSON
)
@name
@click.argument("topic")
@click.argument("data", metavar="JSON")
@click.option(
    "--worker", metavar="WORKER", type=click.IntRange(0), help="To this worker alone, by its number in status."
)
def send(instance: Instance, topic: str, data: str, worker: int | None) -> None:
    """Say JSON under TOPIC to every worker whose application listens to it; "-" reads it from standard input.

    Prints how many heard it: that none listens is no failure, but with --worker it is (exit status 1).
    """
    _check(topic)
    said = _read(data)
    to = {} if worker is None else {"worker": str(worker)}
    heard = int(control.once(instance, "Send", {"topic": topic, "data": said, **to}).get("heard") or 0)
    if worker is not None and not heard:
        raise CommandError(
            f"{instance.name}: worker {worker} does not listen to '{topic}', or there is none",
            Exit.REFUSED,
            hint=instance.clusterd("status"),
        )
    workers = {0: "no worker", 1: "1 worker"}.get(heard, f"{heard} workers")
    click.echo(f"{instance.name}: heard by {workers}")


@click.command(short_help="Show what the workers say.")
@name
@click.argument("topic")
@click.option("--count", "-n", metavar="N", type=click.IntRange(1), help="End after N messages.")
def listen(instance: Instance, topic: str, count: int | None) -> None:
    """Show what is said under TOPIC from now on, a JSON object a line, until Ctrl-C.

    "from" is the number of the worker that said it, null for 'clusterd send'; "to" is there when it was for one alone.
    """
    _check(topic)
    shown = 0
    for reply in _heard(instance, topic):
        if lost := reply.get("lost"):
            click.echo(f"clusterd: {lost} messages were lost: they were not read fast enough", err=True)
        if (message := reply.get("message")) is not None:
            click.echo(_line(message))
            shown += 1
        if shown == count:
            return


def _heard(instance: Instance, topic: str) -> Iterator[dict[str, Any]]:
    """What the master tells, and the next one where it is replaced: that takes an instant, and is no reason to end."""
    deadline = 0.0
    while True:
        try:
            for reply in control.call(instance, "Listen", {"topic": topic}, more=True):
                if not reply and deadline:
                    click.echo(f"clusterd: {instance.name}: listening again, to another master", err=True)
                deadline = 0.0
                yield reply
            return
        except (control.Lost, control.NotRunning) as e:
            if not deadline:
                if isinstance(e, control.NotRunning):
                    raise
                click.echo(f"clusterd: {instance.name}: the master went away; what is said now is missed", err=True)
                deadline = time.monotonic() + succession.SUCCESSION
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)  # nothing to wait on: the connection to wait on is what was lost


def _check(topic: str) -> None:
    if (why := topics.wrong(topic)) is not None:
        raise CommandError(why, Exit.INVALID)


def _read(data: str) -> str:
    """The compact JSON of what was given."""
    if data == "-":
        # As bytes: the input's encoding is UTF-8, whatever the locale.
        data = click.get_binary_stream("stdin").read(MAX_REQUEST + 1).decode(errors="replace")
    try:
        compact = text(parse(data))
    except ValueError:
        shown = data if len(data) <= 40 else data[:40] + "..."
        raise CommandError(
            f"'{shown}' is not JSON", Exit.INVALID, hint=f"a text needs its quotes within the shell's: '{text(shown)}'"
        ) from None
    size = len(text(compact))  # as a string within the request
    if size > MAX_DATA:
        raise CommandError(
            f"JSON of {size} bytes: expected at most {MAX_DATA} from outside",
            Exit.INVALID,
            hint="between workers a message may have 16 MiB",
        )
    return compact


def _line(message: dict[str, Any]) -> str:
    """`data` is JSON already."""
    known = {key: message[key] for key in ("topic", "from", "to") if key in message}
    return f'{text(known)[:-1]},"data":{message["data"]}}}'
