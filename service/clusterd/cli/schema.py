"""`clusterd schema`: what an editor needs to complete and check the file."""

from __future__ import annotations

import click

from clusterd.config import schema


@click.command("schema", short_help="Print the JSON Schema of the configuration file.")
def schema_command() -> None:
    """Print the JSON Schema of NAME.toml, for editors that complete and check TOML (taplo, Even Better TOML).

    The package has it as /usr/share/clusterd/cluster.schema.json. This as the first line of a file names it:
    '#:schema file:///usr/share/clusterd/cluster.schema.json'; 'clusterd init' writes it.
    """
    click.echo(schema.text(), nl=False)
