"""Telling systemd: sd_notify messages and the fd store. Without NOTIFY_SOCKET everything here does nothing."""

from __future__ import annotations

import contextlib
import os

from clusterd.shell import fields

_TIMEOUT = 1.0
"""Seconds to wait for room in the socket of a PID 1 that is busy (a daemon-reload takes that long on a big machine)."""


class Notifier:
    """`address` is NOTIFY_SOCKET of the environment unless given; empty: no systemd listens.

    What there was no room for is said again with what comes next, which is a sign of life at the latest.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._sd = None
        self._due: dict[str, str] = {}
        if self.address:
            import sdnotify

            self._sd = sdnotify.SystemdNotifier()
            if self._sd.socket is not None:
                # Its socket blocks, and a master that waits for PID 1 without end would miss its own watchdog.
                self._sd.socket.settimeout(_TIMEOUT)
                self._sd.debug = True  # or it would swallow that there was no room

    @property
    def active(self) -> bool:
        return self._sd is not None

    def ready(self, status: str) -> None:
        """Started, or reloaded: the unit's state is "active" from here on."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """The line `systemctl status` shows."""
        self._send(_status(text))

    def stopping(self, status: str = "") -> None:
        self._due.pop("READY", None)
        self._send("STOPPING=1", *([_status(status)] if status else []))

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """A start, reload or stop goes on: systemd's own time-out for it ends `seconds` from now at the earliest."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def main_pid(self, pid: int) -> None:
        """Name the unit's main process: the one that gets SIGTERM at stop."""
        self._send(f"MAINPID={pid}")

    def store(self, name: str, fd: int) -> bool:
        """Put a copy of `fd` into the unit's fd store. False without systemd; a full store is silently not stored.

        FDPOLL=0, or systemd would drop it as soon as the descriptor reports an error or a hang-up.
        """
        return self._with_fds(f"FDSTORE=1\nFDPOLL=0\nFDNAME={_fdname(name)}", [fd])

    def unstore(self, name: str) -> bool:
        """Take every descriptor of that name out of the unit's fd store."""
        return self._with_fds(f"FDSTOREREMOVE=1\nFDNAME={_fdname(name)}", [])

    def _send(self, *lines: str) -> None:
        if self._sd is None:
            return
        for line in lines:
            name, _, value = line.partition("=")
            self._due[name] = value
        text = "\n".join(f"{name}={value}" for name, value in self._due.items())
        with contextlib.suppress(OSError):
            self._sd.notify(text.encode().decode("latin-1"))  # it encodes Latin-1, and UTF-8 is what is to come of that
            self._due.clear()

    def _with_fds(self, message: str, fds: list[int]) -> bool:
        if self._sd is None:
            return False
        from systemd import daemon

        return bool(daemon.notify(message, fds=fds) if fds else daemon.notify(message))


def _status(text: str) -> str:
    """One line, at most 1,000 characters: systemd drops a datagram of more than 4,096 bytes, or that has what cannot be
    shown, whole, and the READY=1 in it."""
    return "STATUS=" + " ".join(fields.printable(text).split())[:1000]


def _fdname(name: str) -> str:
    """What systemd takes as FDNAME: 255 printable ASCII characters at most, no colon (it splits LISTEN_FDNAMES)."""
    if not name or len(name) > 255 or ":" in name or not name.isascii() or not name.isprintable():
        raise ValueError(f"'{name}' cannot be a descriptor's name: expected 1 to 255 ASCII characters without ':'")
    return name
