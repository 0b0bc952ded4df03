"""The command line put together: one group, one module per family of subcommands."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clusterd.cli.change import reload, rollback, try_command
from clusterd.cli.check import check
from clusterd.cli.exits import MEANING, CommandError, Exit
from clusterd.cli.import_gunicorn import import_gunicorn
from clusterd.cli.init import init
from clusterd.cli.instances import Places, of_place
from clusterd.cli.lifecycle import start, stop
from clusterd.cli.observe import list_command, status
from clusterd.cli.run import run
from clusterd.cli.scale import scale
from clusterd.cli.schema import schema_command
from clusterd.cli.talk import listen, send
from clusterd.cli.task import task
from clusterd.cli.upgrade import upgrade
from clusterd.cli.version import version
from clusterd.config.places import SYSTEM, of_user

WIDTH = 100
"""Columns of --help, on a wide terminal too: longer lines are not read."""
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What write(2) says of an output that takes no more. A file that a command writes is told by the command."""


class Ordered(click.Group):
    """Lists the subcommands as they were added: the daily ones first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH})
@click.option("--user", is_flag=True, help="Your own applications, run by your own systemd, as for systemctl.")
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    show_default="/etc/clusterd; with --user ~/.config/clusterd",
    help="Where the applications' files are.",
)
@click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    show_default="/run/clusterd; with --user $XDG_RUNTIME_DIR/clusterd",
    help="Where the running instances' directories are.",
)
@click.pass_context
def clusterd(context: click.Context, user: bool, config_dir: Path | None, runtime_dir: Path | None) -> None:
    """A process cluster for Linux, done the systemd way.

    One TOML file per application in /etc/clusterd: NAME.toml runs as the unit cluster@NAME. See clusterd(8) and
    cluster.toml(5).
    """
    if user and os.geteuid() == 0:
        raise CommandError(
            "--user: an application never runs as root, not root's own either",
            Exit.INVALID,
            hint="leave --user out; for another user's: runuser -u NAME -- clusterd --user ...",
        )
    place = of_user(os.environ, os.getuid()) if user else SYSTEM
    found = of_place(place)
    context.obj = Places(config_dir or found.config, runtime_dir or found.runtime, place)


def exit_statuses() -> str:
    """The table at the end of --help."""
    rows = "\n".join(f"  {int(status):<4} {text}" for status, text in MEANING.items())
    return f"\b\nExit status:\n{rows}"


for command in (
    run,
    init,
    status,
    list_command,
    check,
    reload,
    rollback,
    try_command,
    scale,
    start,
    stop,
    send,
    listen,
    task,
    upgrade,
    schema_command,
    import_gunicorn,
    version,
):
    clusterd.add_command(command)
clusterd.epilog = exit_statuses()


def user_first(arguments: Sequence[str]) -> list[str]:
    """`arguments` with --user where it belongs, before the command: systemctl takes it anywhere, and so do people.

    Not with `run`, where it would be another server's --user ACCOUNT, which is refused as unknown.
    """
    found = list(arguments)
    options = found[: found.index("--")] if "--" in found else found
    command = next((word for word in options if word in clusterd.commands), None)
    if "--user" in options and command != "run":
        found.remove("--user")
        found.insert(0, "--user")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status. Every message for people about an error is on standard error."""
    if sys.stdout is None:  # closed before Python began
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    failed = None
    try:
        status = command_status(arguments)
    except SystemExit as e:
        # click's own end where nobody reads on: `clusterd list | head`. Where it is errors that nobody reads, what came
        # of the command is not known, and it has not done well.
        if isinstance(e.__context__, BrokenPipeError) and not unread(2):
            return int(Exit.DONE)
        raise
    except OSError as e:
        if e.filename is not None or e.errno not in WRITING:
            raise
        failed, status = e, int(Exit.REFUSED)
    unwritten = flush() or failed
    if unwritten is None or isinstance(unwritten, BrokenPipeError):
        return status
    click.echo(f"clusterd: standard output: {unwritten.strerror}", err=True)
    return status or int(Exit.REFUSED)


def unread(fd: int) -> bool:
    """Whether it is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def flush() -> OSError | None:
    """What keeps standard output from being written; what is left of it is then dropped."""
    try:
        sys.stdout.flush()
    except OSError as e:
        # or Python would try once more at its end, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return e
    return None


def command_status(arguments: Sequence[str]) -> int:
    try:
        status = clusterd.main(user_first(arguments), prog_name="clusterd", standalone_mode=False)
    except CommandError as e:
        e.show()
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return int(Exit.INVALID)
    except (click.Abort, KeyboardInterrupt):
        return int(Exit.INTERRUPTED)
    return status if isinstance(status, int) else int(Exit.DONE)
