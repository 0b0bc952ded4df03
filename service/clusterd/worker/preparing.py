"""What a zygote makes of the "boot" message: an application loaded, an engine ready to run it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from . import caching, engines, loading, logs, runs
from .boot import Boot
from .engines import Engine, command
from .refusal import Refusal


@dataclass(frozen=True)
class Prepared:
    interface: str
    engine_name: str
    engine: Engine | None


def prepare(boot: Boot) -> Prepared:
    """Load the application and its engine, or find the command. Raises Refusal."""
    try:
        os.chdir(boot.directory)
    except OSError as e:
        raise Refusal(f"directory '{boot.directory}': {e.strerror}") from e
    os.environ["CLUSTERD_APP"] = boot.name
    if boot.kind == "command":
        command.find(boot.command)
        return Prepared("command", "command", None)
    if (why := caching.lacking()) is not None:
        raise Refusal(why)
    _set_path(boot.directory)
    reference = loading.parse(boot.app)
    app = loading.load(reference, boot.directory)
    interface = engines.interface(app, str(reference), boot.engine)
    engine = engines.prepare(app, interface, boot)
    runs.check(boot)
    return Prepared(interface, engine.name, engine)


def configure_logging(boot: Boot) -> None:
    logs.install(boot.log_level)


def _set_path(directory: str) -> None:
    """As `python hello.py` in that directory would have it, and argv without our own words."""
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    sys.argv = [""]
