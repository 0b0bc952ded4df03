"""Python logging into the journal by its native protocol: whole records, tracebacks included, with fields.

Only for applications that configure no logging of their own. Where there is no journal (`clusterd run`), lines.
The protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import array
import errno
import logging
import os
import re
import socket
import struct

SOCKET = "/run/systemd/journal/socket"

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
    """One journal record per log record. A journal that does not take it gets told nothing: the line goes to stderr."""

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.identify()

    def identify(self) -> None:
        """Take from the environment which worker it is."""
        worker = {name: os.environ[name] for name in _FIELDS if name in os.environ}
        name = os.environ.get("CLUSTERD_APP")
        slot = os.environ.get("CLUSTERD_SLOT") or os.environ.get("CLUSTERD_TASK", "spare")
        self._constant = encode({**worker, "SYSLOG_IDENTIFIER": f"{name}/{slot}" if name else "clusterd"})

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(self._constant + encode(_fields(record, self.format(record))))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _send(self, data: bytes) -> None:
        # Not connected: journald may be restarted, and its socket with it.
        try:
            self._socket.sendto(data, self._path)
        except OSError as e:
            if e.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_large(data)

    def _send_large(self, data: bytes) -> None:
        import fcntl

        # Sealed, because journald reads it in its own time and takes no other.
        fd = os.memfd_create("clusterd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._socket.sendmsg([b""], rights, 0, self._path)
        finally:
            os.close(fd)


def encode(fields: dict[str, str]) -> bytes:
    """Fields as the journal reads them: a value with a newline in it goes with its length before it."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="surrogateescape")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


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
