"""Python logging into the journal by its native protocol: whole records, tracebacks included, with fields.

Only for applications that configure no logging of their own. Where there is no journal (`clusterd run`), lines.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct

from .native import SOCKET, encode, send

PATIENCE = 0.5
"""Seconds a record waits for a journald that takes none; those that follow wait no more until it does."""

_FIELDS = ("CLUSTERD_WORKER", "CLUSTERD_SLOT", "CLUSTERD_GENERATION")
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def install(level: str) -> None:
    """Give the root logger a handler and `level`, unless it has a handler already."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ and os.path.exists(SOCKET):
        handler = JournalHandler()
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(_level(level))


def identify() -> None:
    """This worker has got another slot: its records say so from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, JournalHandler):
            handler.identify()


class JournalHandler(logging.Handler):
    """One journal record per log record. One that cannot be sent goes to stderr.

    A journald that stands still costs records, not the requests of whoever logs: how many is told when it goes on.
    """

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self._path = path
        # Not connected: journald may be restarted, and its socket with it.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(None)  # not what the application has given to socket.setdefaulttimeout()
        wait = struct.pack("@ll", int(PATIENCE), int(PATIENCE % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        self.lost = 0
        """Records that journald did not take, since the last it took."""
        self.identify()

    def identify(self) -> None:
        """Take from the environment which worker it is."""
        worker = {name: os.environ[name] for name in _FIELDS if name in os.environ}
        name = os.environ.get("CLUSTERD_APP")
        slot = os.environ.get("CLUSTERD_SLOT") or os.environ.get("CLUSTERD_TASK", "spare")
        self._constant = encode({**worker, "SYSLOG_IDENTIFIER": f"{name}/{slot}" if name else "clusterd"})

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.lost and self._taken({"MESSAGE": f"{self.lost} log records are missing here", "PRIORITY": "4"}):
                self.lost = 0
            if not self._taken(_fields(record, self.format(record))):
                self.lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _taken(self, fields: dict[str, str]) -> bool:
        try:
            data = self._constant + encode(fields)
            send(self._socket, data, self._path, socket.MSG_DONTWAIT if self.lost else 0)
        except BlockingIOError:
            return False
        return True


_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
"""What every record has, and what uvicorn adds; the rest is the application's, by `extra=`."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)


def _fields(record: logging.LogRecord, message: str) -> dict[str, str]:
    extra = {name.upper(): str(value) for name, value in record.__dict__.items() if name not in _KNOWN}
    return {
        **{name: value for name, value in extra.items() if _NAME.fullmatch(name) and name not in _FIELDS},
        "MESSAGE": message,
        "PRIORITY": str(next((p for least, p in _PRIORITIES if record.levelno >= least), 7)),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        "THREAD_NAME": record.threadName or "",
    }


def _level(name: str) -> int:
    found = logging.getLevelName(name.upper())
    return found if isinstance(found, int) else logging.INFO
