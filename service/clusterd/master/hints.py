"""Whether it is the service's sandbox that stops an application: read from what it said when it failed. Pure."""

from __future__ import annotations

import os.path
import re

from clusterd.config.homes import at_home
from clusterd.config.settings import Settings
from clusterd.master.context import Context

_PATH = r"(?:[^\n]{0,200}?: )?'(/[^'\n]{1,1000})'"
_READ_ONLY = re.compile(r"Errno 30\] Read-only file system: " + _PATH)
_DENIED = re.compile(r"Errno 13\] Permission denied: " + _PATH)
_DEVICE = re.compile(r"Errno (?:1|2|13)\] [A-Z][a-z ]+: '(/dev/[^'\n]{1,200})'")
_SQLITE = re.compile(r"attempt to write a readonly database|unable to open database file")
_UNREACHED = re.compile(
    r"timed out|Errno (?:1|101|110|113)\]|[Nn]ame resolution|[Nn]ame or service not known|TimeoutError"
)
_CODE = re.compile(r"MemoryError|LLVM ERROR|killed by SIG(?:SEGV|ABRT|BUS|ILL|TRAP)|dynamic code|executable memory")
_NOT_PERMITTED = re.compile(r"Errno 1\] Operation not permitted")


def explained(reason: str, traceback: str, settings: Settings | None, context: Context) -> str:
    """`reason`, and which key of [sandbox] it is about, where that can be known."""
    if settings is None or context.foreground or context.place.user:
        return reason
    found = hint(f"{traceback}\n{reason}", settings)
    return f"{reason}; hint: {found}" if found else reason


def hint(text: str, settings: Settings) -> str:
    """What to write into the file so that `text`, of a failure, is not said again; "" where that is not the sandbox's.

    The last that is named counts: a traceback ends with what was fatal.
    """
    for look in (_of_files, _of_devices, _of_homes, _of_databases, _of_code, _of_network):
        if found := look(text, settings):
            return found
    if _NOT_PERMITTED.search(text):
        return "the unit's SystemCallFilter=, RestrictNamespaces= or the like may be what refuses it: see sandbox.md"
    return ""


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]) if found else ""


def _of_files(text: str, settings: Settings) -> str:
    path = _last(_READ_ONLY, text)
    if not path:
        return ""
    opened = next((w for w in settings.sandbox.write if path == w or path.startswith(w + "/")), None)
    if opened:
        return f"the unit does not have '{opened}' of [sandbox] write yet: systemctl daemon-reload and restart"
    return (
        f'everything is read-only but STATE_DIRECTORY and /tmp: [sandbox] write = ["{os.path.dirname(path)}"], '
        "a directory of the service's user"
    )


def _of_devices(text: str, settings: Settings) -> str:
    path = _last(_DEVICE, text)
    if not path or path in settings.sandbox.devices:
        return ""
    return f'the service has no devices of the machine: [sandbox] devices = ["{path}"]'


def _of_homes(text: str, settings: Settings) -> str:
    path = _last(_DENIED, text)
    own = [settings.directory, settings.python or "", *(settings.command or ())[:1], *settings.sandbox.write]
    seen = settings.sandbox.home in ("read-only", "writable") or settings.sandbox.home == "auto" and at_home(own)
    if not at_home([path]) or seen:
        return ""
    return f"homes are hidden from it, '{path}' too: [sandbox] home = \"read-only\""


def _of_databases(text: str, settings: Settings) -> str:
    if not _SQLITE.search(text):
        return ""
    return "SQLite writes into the database's directory: put it into STATE_DIRECTORY, or name that in [sandbox] write"


def _of_code(text: str, settings: Settings) -> str:
    if settings.sandbox.jit or not _CODE.search(text):
        return ""
    return "[sandbox] jit = false may be what stops it: it cannot make code at run time"


def _of_network(text: str, settings: Settings) -> str:
    if settings.sandbox.network == "full" or not _UNREACHED.search(text):
        return ""
    return "[sandbox] network may be what keeps it from there: add the address"
