"""clusterd(8) on standard output: `python3 -m clusterd.cli.manual`. Made of the commands, so it cannot lag behind."""

from __future__ import annotations

import datetime
import os
import re
import sys

import click

from clusterd import __version__
from clusterd.cli import manual_text as text
from clusterd.cli import roff
from clusterd.cli.exits import MEANING
from clusterd.cli.program import clusterd


def page() -> str:
    """The whole page, as roff."""
    context = click.Context(clusterd, info_name="clusterd")
    parts = [
        roff.title("clusterd", 8, _date(), f"clusterd {__version__}", "System Administration"),
        roff.section("Name"),
        "clusterd \\- a process cluster for Linux, done the systemd way",
        roff.section("Synopsis"),
        *(f".PP\n{roff.prose(_synopsis(name, command))}" for name, command in clusterd.commands.items()),
        roff.section("Description"),
        roff.paragraphs(text.DESCRIPTION),
        roff.section("Commands"),
        *(_command(name, command) for name, command in clusterd.commands.items()),
        roff.section("Options"),
        *_options(clusterd),
        roff.section("Reloading"),
        roff.paragraphs(text.RELOAD),
        roff.section("What clients notice"),
        roff.items(text.CLIENTS),
        roff.section("Exit status"),
        roff.items((f"**{int(status)}**", meaning) for status, meaning in MEANING.items()),
        roff.section("Signals"),
        roff.items(text.SIGNALS),
        roff.section("Files"),
        roff.items(text.FILES),
        roff.section("Environment"),
        roff.items(text.ENVIRONMENT),
        roff.section("Examples"),
        *(f"{roff.example(line)}\n.PP\n{roff.prose(effect)}" for line, effect in text.EXAMPLES),
        roff.section("See also"),
        roff.prose("cluster.toml(5), systemctl(1), journalctl(1), systemd.socket(5), varlinkctl(1)"),
    ]
    context.close()
    return "\n".join(parts) + "\n"


def _date() -> str:
    """The day of the release where the package is built (reproducible-builds.org), else today."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.date().isoformat()


def _synopsis(name: str, command: click.Command) -> str:
    options = " [_OPTION_...]" if _visible(command) else ""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    return f"**clusterd {name}**{options}" + "".join(f" {_argument(p)}" for p in arguments)


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return re.sub("[A-Z]+", lambda m: f"_{m[0]}_", name)


def _command(name: str, command: click.Command) -> str:
    arguments = "".join(f" {_argument(p)}" for p in command.params if isinstance(p, click.Argument))
    parts = [roff.subsection(f"clusterd {name}{arguments}"), roff.paragraphs(_help(command)), *_options(command)]
    return "\n".join(parts)


def _help(command: click.Command) -> str:
    return (command.help or "").replace("\b", "")


def _visible(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def _options(command: click.Command) -> list[str]:
    with click.Context(command) as context:
        records = [record for option in _visible(command) if (record := option.get_help_record(context))]
    return [roff.item(f"**{term.split(' ', 1)[0].rstrip(',')}**" + _rest(term), help) for term, help in records]


def _rest(term: str) -> str:
    """What follows the first name of an option: further names, its placeholder."""
    first, _, rest = term.partition(" ")
    comma = ", " if first.endswith(",") else " " if rest else ""
    return comma + re.sub(r"(--?[a-z-]+)", r"**\1**", re.sub(r"\b[A-Z]+\b", lambda m: f"_{m[0]}_", rest))


if __name__ == "__main__":
    sys.stdout.write(page())
