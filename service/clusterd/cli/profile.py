"""--profile: which [profile.NAME] an instance runs with, chosen by whoever starts or reloads it, and remembered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from clusterd.cli import control, files, systemd
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance
from clusterd.config import profiles

GOES_ON = (Exit.INTERRUPTED, Exit.SUPERSEDED)
"""Ends of a reload's client that are not the end of what was chosen."""


def given(_context: click.Context, _option: click.Parameter, profile: str | None) -> str | None:
    """The profile of an option: "" for none, None when the option was not given and the remembered one counts."""
    return "" if profile == profiles.NONE else profile


choose = click.option(
    "--profile",
    "wanted",
    metavar="PROFILE",
    callback=given,
    help="Lay [profile.PROFILE] over the file, now and at every later start; 'none': the file alone.",
)
once = click.option(
    "--profile",
    "wanted",
    metavar="PROFILE",
    callback=given,
    help="As if that profile were chosen; 'none': the file alone.",
)


def checked(instance: Instance, profile: str | None) -> None:
    """That the file has that profile, and is valid; its problems are printed. Raises CommandError."""
    if profile is None:
        return
    if instance.file is None:
        raise CommandError(
            f"'{instance.control}' has no profiles: they are of a file in /etc/clusterd",
            Exit.INVALID,
            hint="clusterd run FILE.toml --profile PROFILE",
        )
    files.loaded(instance.file, instance.place, among=True, profile=profile)


@contextmanager
def remembered(instance: Instance, profile: str | None) -> Iterator[None]:
    """Choose `profile` before what is done here, so that master, generator and boot read it alike.

    What was refused has changed nothing: then the choice is what it was. Raises CommandError.
    """
    if profile is None:
        yield
        return
    file = str(instance.file)
    before = _chosen(file)
    _choose(file, profile)
    try:
        yield
    except control.RestartNeeded as e:
        _choose(file, before)
        program = instance.place.tool("clusterd")
        start = f"{program} start {instance.name} --profile {profile or profiles.NONE}"
        e.hint = f"{program} stop {instance.name} && {start}"
        raise
    except CommandError as e:
        if e.exit_code not in GOES_ON and not isinstance(e, control.Lost):
            _choose(file, before)
        raise
    systemd.of(instance.place).systemctl(
        "daemon-reload", patience=120
    )  # the drop-ins are made of the file with its profile


def keep(instance: Instance, profile: str | None) -> None:
    """Remember `profile`, whatever becomes of it: a start that fails is tried again, and with the same."""
    if profile is not None:
        _choose(str(instance.file), profile)


def refuse_running(instance: Instance, profile: str | None) -> None:
    """A start leaves alone what runs: raises CommandError when that is something else than was asked for."""
    if profile is None:
        return
    try:
        running = control.status(instance).get("profile") or ""
    except (control.NotRunning, control.Lost):
        return
    if running != profile:
        raise CommandError(
            f"{instance.name} runs already, {described(running)}",
            Exit.REFUSED,
            hint=f"{instance.place.tool('clusterd')} reload {instance.name} --profile {profile or profiles.NONE}",
        )


def described(profile: str) -> str:
    return f"with profile '{profile}'" if profile else "without a profile"


def _chosen(file: str) -> str:
    try:
        return profiles.chosen(file)
    except (OSError, ValueError):
        return ""  # unreadable, and about to be replaced


def _choose(file: str, profile: str) -> None:
    try:
        profiles.choose(file, profile)
    except OSError as e:
        raise CommandError(
            f"{profiles.beside(file)}: {e.strerror}", Exit.NOT_ALLOWED, hint="the profile is remembered there"
        ) from None
