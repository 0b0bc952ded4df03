"""`clusterd reload`, `rollback` and `try`: one call each, its progress, its outcome as words and exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import click

from clusterd.cli import certificates, control, files, hosts, profile, succession
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.hosts import reload as on_hosts
from clusterd.cli.instances import Instance, InstanceType, need, places
from clusterd.cli.lifecycle import need_rights
from clusterd.cli.observe import receipt_line
from clusterd.cli.progress import Progress

OWN_VARIABLES = (
    "INVOCATION_ID",
    "NOTIFY_SOCKET",
    "MAINPID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "SERVICE_RESULT",
)
OWN_PREFIXES = ("LISTEN_", "WATCHDOG_", "MEMORY_PRESSURE_", "EXIT_", "CLUSTERD_")
"""What systemd and clusterd set for one process: it is true of ExecReload's process, not of the workers."""

quiet = click.option("--quiet", "-q", is_flag=True, help="No progress: only the receipt, or the reason.")
name = click.argument("instance", metavar="NAME", type=InstanceType())


@click.command(short_help="Replace every worker by one of what is now on disk.")
@click.argument("instance", metavar="NAME", type=InstanceType(must_exist=False))
@profile.choose
@hosts.option
@quiet
@click.pass_context
def reload(context: click.Context, instance: Instance, quiet: bool, wanted: str | None, hosts: tuple[str, ...]) -> None:
    """Replace every worker by one of the code and configuration now on disk, and wait until that is done.

    The new generation is booted and checked completely while the old one serves; only then it takes over, and the old
    workers answer what they have and leave. A refused reload changes nothing. This is what 'systemctl reload
    cluster@NAME' runs. If the client is interrupted, the reload goes on.

    With --host it is done on those machines instead, by 'systemctl --host', one after another. The first that fails
    ends it: the machines after it are left alone.
    """
    if hosts:
        if wanted is not None:
            raise CommandError("--profile: choose it on each host", Exit.INVALID)
        on_hosts(instance, hosts, quiet=quiet)
        return
    need(instance, places(context))
    if wanted is not None:
        profile.checked(instance, wanted)
        need_rights("reload", instance)
    with profile.remembered(instance, wanted):
        perform(instance, "Reload", environment(instance) | certificates.handed(instance), quiet=quiet)


@click.command(short_help="Bring back the previous generation, from memory.")
@name
@quiet
def rollback(instance: Instance, quiet: bool) -> None:
    """Bring back the previous generation, as it was in memory: its files need not be on disk any more.

    Once done, the generation it replaced is the previous one.
    """
    perform(instance, "Rollback", {}, quiet=quiet)


@click.command("try", short_help="Boot and check what is on disk, without traffic.")
@name
@profile.once
@quiet
def try_command(instance: Instance, quiet: bool, wanted: str | None) -> None:
    """Boot and check the code and configuration now on disk without giving it traffic.

    The exit status says whether a reload would be accepted: made for a deployment pipeline. What runs is not touched.
    """
    profile.checked(instance, wanted)
    asked = {} if wanted is None else {"profile": wanted}
    asked |= certificates.handed(instance, wanted)
    perform(instance, "Try", environment(instance, wanted) | asked, quiet=quiet)


def perform(instance: Instance, method: str, parameters: dict[str, Any], *, quiet: bool) -> None:
    """Call `method`, show what comes, end with the exit status of its outcome."""
    verb = method.lower()
    last: dict[str, Any] = {}
    mine: int | None = None
    if inside(instance):
        # A stop amid a reload sends SIGTERM to both of us; dead by it, systemd would take the whole service for failed.
        # The master answers at once that it is stopping.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # in the unit, what is printed goes to the journal, where the master has told the progress already
    with Progress(f"{instance.name}: {verb}", quiet=quiet or inside(instance)) as progress:
        try:
            before = number(first_status(instance))
            try:
                for reply in control.call(instance, method, parameters, more=True, patience=succession.AWAITED):
                    if "progress" in reply:
                        mine = reply["progress"].get("number")
                        progress.show(reply["progress"])
                    else:
                        last = reply
            except control.Lost:
                if method == "Try":
                    raise
                last = {"receipt": follow(instance, verb, mine, before, progress)}
        except KeyboardInterrupt:
            raise CommandError(
                f"{instance.name}: interrupted; the {verb} goes on",
                Exit.INTERRUPTED,
                hint=instance.clusterd("status"),
            ) from None
    receipt = last.get("receipt") or last.get("report") or {}
    click.echo(f"{instance.name}: {receipt_line(receipt) if receipt else verb + ' done'}")


def first_status(instance: Instance) -> dict[str, Any]:
    """The status, by the next master where one goes away over the question: nothing has been asked of it yet.

    {} for who may not ask: what he may not do besides is told when he asks for it.
    """
    try:
        try:
            return control.status(instance, patience=succession.AWAITED)
        except control.Lost:
            return control.status(instance, patience=succession.AWAITED)
    except CommandError as e:
        if e.exit_code != Exit.NOT_ALLOWED:
            raise
        return {}


def number(status: dict[str, Any]) -> int:
    """The greatest number of a receipt, or of what is under way; 0 before the first."""
    numbered = [*(status.get("receipts") or []), status.get("receipt"), status.get("rollout")]
    return max((int(each.get("number") or 0) for each in numbered if each), default=0)


def follow(instance: Instance, verb: str, mine: int | None, before: int, progress: Progress) -> dict[str, Any]:
    """The receipt of rollout `mine` whose master was replaced: the next one goes on with it. Raises CommandError.

    Without its number, which the master had not said yet, it is the first of its kind after `before`.
    """

    def ended(status: dict[str, Any]) -> dict[str, Any] | None:
        if (receipt := found(status, verb, mine, before)) is not None:
            return judged(instance, receipt)
        if not (rollout := status.get("rollout")):
            raise CommandError(
                f"{instance.name}: the master was replaced, and the outcome is not known",
                Exit.UNREACHABLE,
                hint=instance.clusterd("status"),
            )
        progress.show({"phase": rollout.get("phase"), "text": status.get("summary")})
        return None

    return succession.until(instance, ended)


def found(status: dict[str, Any], verb: str, mine: int | None, before: int) -> dict[str, Any] | None:
    """The receipt of rollout `mine`, if it is there."""
    receipts: list[dict[str, Any]] = status.get("receipts") or [r for r in [status.get("receipt")] if r]
    if mine is not None:
        return next((r for r in receipts if r.get("number") == mine), None)
    later = [r for r in receipts if r.get("kind") == verb and int(r.get("number") or 0) > before]
    return min(later, key=lambda r: int(r["number"]), default=None)


def judged(instance: Instance, receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt of a rollout that was done; raises the CommandError of any other."""
    outcomes = {"refused": Exit.REFUSED, "superseded": Exit.SUPERSEDED, "returned": Exit.RETURNED}
    outcome = str(receipt.get("outcome"))
    if outcome in outcomes:
        raise CommandError(f"{instance.name}: {receipt_line(receipt)}", outcomes[outcome])
    return receipt


def inside(instance: Instance) -> bool:
    """Whether this runs in the instance's own unit, as ExecReload= does."""
    return os.environ.get("CLUSTERD_INSTANCE") == instance.name


def environment(instance: Instance, profile: str | None = None) -> dict[str, Any]:
    """What the new generation's environment is made of.

    In the unit, systemd has just read EnvironmentFile= and Environment= anew: the whole of it counts. Elsewhere only
    the application's own file can be read again, over what the master had at its start; that needs root, for such
    files hold secrets, or the user whose own application it is. Without either the master takes what it has.
    """
    if inside(instance):
        return {"environment": without_own(os.environ)}
    if (instance.place.user or os.geteuid() == 0) and instance.file is not None:
        overlay = files.environment(instance.file, instance.place, profile)
        return {} if overlay is None else {"overlay": overlay}
    return {}


def without_own(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value for key, value in variables.items() if key not in OWN_VARIABLES and not key.startswith(OWN_PREFIXES)
    }
