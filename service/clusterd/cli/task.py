"""`clusterd task`: the tasks of an application, and a run of one on demand."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

import click

from clusterd.cli import control, scheduled, succession
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance, InstanceType


@click.command(short_help="Show the tasks of an instance, or run one now.")
@click.argument("instance", metavar="NAME", type=InstanceType())
@click.argument("action", metavar="[run", type=click.Choice(["run"]), required=False)
@click.argument("task", metavar="TASK]", required=False)
@click.option(
    "--wait", is_flag=True, help="Wait for a run that goes on already, and until it is certain which host runs it."
)
@click.option("--json", "as_json", is_flag=True, help="The list as a JSON array.")
def task(instance: Instance, action: str | None, task: str | None, wait: bool, as_json: bool) -> None:
    """Show the tasks of an instance: when each runs, how its last run came out, and when the next one is due.

    With 'run TASK', run that one now, wait until it has ended, and print what it returned, as JSON. The exit status is
    1 when it failed, or when it runs already: two runs of a task are never made at once.
    """
    if action is not None and task is None:
        raise CommandError("run: which task?", Exit.INVALID, hint=instance.clusterd("task"))
    if task is not None:
        run(instance, task, wait)
    else:
        show(instance, as_json)


def run(instance: Instance, task: str, wait: bool) -> None:
    """Raises CommandError unless it is done."""
    number, last, held = 0, {}, False
    try:
        for reply in control.call(
            instance, "Run", {"task": task, **({"join": "yes"} if wait else {})}, more=True, patience=succession.AWAITED
        ):
            number, last = int(reply.get("run") or number), reply
            if reply.get("joined"):
                click.echo(f"{instance.name}: task {task} runs already: waiting for that run", err=True)
            elif not number and "outcome" not in reply:
                held = True
                waits = "waiting until that is certain, for a minute at most"
                click.echo(f"{instance.name}: task {task}: {reply['reason']}: {waits}", err=True)
    except control.NoTask as e:
        raise no_task(instance, task, e.known) from None
    except control.Lost:
        if held and not number:
            return run(instance, task, wait)  # nothing has begun: the next master is to wait too
        if not number:
            raise
        last = follow(instance, task, number)
    except KeyboardInterrupt:
        raise CommandError(
            f"{instance.name}: interrupted; the run goes on", Exit.INTERRUPTED, hint=instance.clusterd("task")
        ) from None
    outcome, reason = last.get("outcome"), last.get("reason")
    if outcome == "stopped":
        raise CommandError(f"{instance.name}: task {task} was ended: {reason}", Exit.STOPPING)
    if outcome == "elsewhere":
        raise CommandError(f"{instance.name}: task {task}: {reason}", Exit.ELSEWHERE)
    if outcome != "done":
        hint = instance.log if instance.file else ""
        raise CommandError(f"{instance.name}: task {task} failed: {reason}", Exit.REFUSED, hint=hint)
    if last.get("result") is None:
        click.echo(f"{instance.name}: task {task} is done; its result is too long to be shown", err=True)
    else:
        click.echo(last["result"])


def follow(instance: Instance, task: str, number: int) -> dict[str, Any]:
    """How run `number` came out, whose master was replaced: the next one goes on with it. Raises CommandError."""

    def ended(status: dict[str, Any]) -> dict[str, Any] | None:
        found = next((t for t in tasks(status) if t["task"] == task), None)
        if found is None:
            raise CommandError(f"{instance.name}: there is no task '{task}' any more", Exit.REFUSED)
        last: dict[str, Any] = found.get("last") or {}
        return last if int(last.get("number") or 0) >= number else None

    return succession.until(instance, ended)


def tasks(status: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = status.get("tasks") or []
    return found


def show(instance: Instance, as_json: bool) -> None:
    found = tasks(control.status(instance))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        scheduled.show(instance, found)
    else:
        click.echo(f"{instance.name}: no tasks: [task.NAME] in its file, see cluster.toml(5)")


def no_task(instance: Instance, task: str, known: Sequence[str]) -> CommandError:
    near = difflib.get_close_matches(task, known, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}" if known else ""
    return CommandError(
        f"{instance.name}: there is no task '{task}'",
        Exit.INVALID,
        hint=hint or f"[task.{task}] in its file, and a reload: see cluster.toml(5)",
    )
