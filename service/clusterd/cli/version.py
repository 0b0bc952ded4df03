"""`clusterd version`."""

from __future__ import annotations

import json
import platform

import click

from clusterd import __version__


@click.command(short_help="Print the version of this program.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object of {clusterd, python}.")
def version(as_json: bool) -> None:
    """Print the version of this program; that of a running master is in 'clusterd status'."""
    if as_json:
        click.echo(json.dumps({"clusterd": __version__, "python": platform.python_version()}))
    else:
        click.echo(f"clusterd {__version__}")
