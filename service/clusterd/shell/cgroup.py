"""Sub-cgroups of the unit's own: exact kills, figures and limits per worker, where the unit is delegated.

Without a delegated cgroup (version 1, a container, `clusterd run` in a plain shell) everything here answers None or
False, and `why` says the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_OURS = re.compile(r"/(keeper|master|usher|zygote-\d+|twin-\d+|worker-\d+|task-\d+)$")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
CONTROLLERS = ("memory", "pids", "cpu")


class Cgroups:
    """The directory whose sub-cgroups are ours. `why` is empty when it can be used, else the reason in words."""

    def __init__(self, directory: Path | None, why: str = "") -> None:
        self.directory = directory
        self.why = why if directory is None else ""
        self._late: set[str] = set()

    @classmethod
    def find(cls) -> Cgroups:
        """From /proc/self/cgroup, one of our own sub-cgroups taken off (a master starts in the keeper's).

        Delegated means marked so by systemd (251 and later set the attribute user.delegate; the user manager of 255
        does not), or that systemd started this very unit, which NOTIFY_SOCKET tells. Writable alone is not enough:
        root may write anywhere, but a session's scope has another writer.
        """
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), None)
        if own is None:
            return cls(None, "this system has no cgroup version 2")
        own = _OURS.sub("", own)
        mount = next((m for m in _MOUNTS if os.path.exists(f"{m}/cgroup.controllers")), None)
        if mount is None:
            return cls(None, f"cgroup version 2 is mounted neither at {' nor at '.join(_MOUNTS)}")
        if own in ("", "/"):
            return cls(None, "the process is in the root cgroup, which is nobody's own")
        directory = Path(mount + own)
        if not os.access(directory, os.W_OK) or not os.access(directory / "cgroup.procs", os.W_OK):
            return cls(None, f"'{directory}' is not writable (Delegate=yes is missing?)")
        if not _marked(directory) and "NOTIFY_SOCKET" not in os.environ:
            return cls(None, f"'{directory}' is not delegated")
        return cls(directory)

    @property
    def delegated(self) -> bool:
        return self.directory is not None

    def path(self, name: str) -> str | None:
        """Create sub-cgroup `name` and return its path; None (and `why`) when that is not possible."""
        found = self._at(name)
        if found is None:
            return None
        try:
            os.makedirs(found, exist_ok=True)
        except OSError as e:
            self.why = f"sub-cgroup '{found}' could not be made: {e.strerror}"
            return None
        self._late.discard(name)
        return found

    def enter(self, name: str) -> bool:
        """Move this process into sub-cgroup `name`: no controller can be enabled while the unit's own has a process."""
        path = self.path(name)
        if path is None:
            return False
        try:
            _write(f"{path}/cgroup.procs", "0")
        except OSError as e:
            self.why = f"sub-cgroup '{path}' could not be entered: {e.strerror}"
            return False
        return True

    def enable(self) -> frozenset[str]:
        """Enable what there is of the memory, pids and cpu controllers for the sub-cgroups; returns those enabled now.

        Call it when keeper and master have both entered theirs. One write each: a missing one refuses the whole line.
        """
        if self.directory is None:
            return frozenset()
        control = self.directory / "cgroup.subtree_control"
        for name in CONTROLLERS:
            with contextlib.suppress(OSError):
                control.write_text(f"+{name}", encoding="ascii")
        with contextlib.suppress(OSError):
            return frozenset(control.read_text(encoding="ascii").split())
        return frozenset()

    def pids(self, name: str) -> list[int]:
        """The processes in sub-cgroup `name` and below; empty when it does not exist."""
        found: list[int] = []
        for directory in self._tree(name):
            with contextlib.suppress(OSError):
                found += [int(line) for line in _read(f"{directory}/cgroup.procs").split()]
        return found

    def has(self, name: str, pid: int) -> bool:
        """Whether process `pid` is in sub-cgroup `name` or below."""
        found = self._at(name)
        if found is None:
            return False
        try:
            lines = _read(f"/proc/{pid}/cgroup").splitlines()
        except (OSError, UnicodeError):
            return False
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
        return any(f"{mount}{own}/".startswith(f"{found}/") for mount in _MOUNTS)

    def kill(self, name: str) -> bool:
        """SIGKILL everything in sub-cgroup `name`; False when there is no such sub-cgroup."""
        found = self._at(name)
        if found is None or not os.path.isdir(found):
            return False
        try:
            _write(f"{found}/cgroup.kill", "1")
        except OSError:
            # Older than 5.14. Signalling one by one races with forks, so a few passes; 0 is a process not visible here.
            for _ in range(5):
                pids = [pid for pid in self.pids(name) if pid > 0]
                if not pids:
                    break
                for pid in pids:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
        return True

    def remove(self, name: str) -> bool:
        """Remove sub-cgroup `name`, with empty ones the application made in it.

        False while a process is left, as it is for a moment after `kill`: then `sweep` removes it.
        """
        for directory in self._tree(name):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                self._late.add(name)
                return False
        self._late.discard(name)
        return True

    def sweep(self) -> None:
        """Remove what could not be removed before. Call it now and then."""
        for name in sorted(self._late):
            self.remove(name)

    def names(self) -> list[str]:
        """The sub-cgroups there are, sorted; systemd's own (".control" for ExecReload) left out."""
        if self.directory is None:
            return []
        with contextlib.suppress(OSError):
            return sorted(e.name for e in os.scandir(self.directory) if _NAME.fullmatch(e.name) and e.is_dir())
        return []

    def oom_kills(self, name: str) -> int | None:
        """How many processes of sub-cgroup `name` the kernel killed for memory; None without the memory controller."""
        found = self._at(name)
        if found is None:
            return None
        try:
            lines = _read(f"{found}/memory.events").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

    def memory(self, name: str) -> int | None:
        """Bytes that sub-cgroup `name` takes, without files that can be read again; None without the controller."""
        found = self._at(name)
        if found is None:
            return None
        try:
            current = int(_read(f"{found}/memory.current"))
            lines = _read(f"{found}/memory.stat").splitlines()
        except (OSError, ValueError):
            return None
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return max(0, current - cached)

    def _at(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no sub-cgroup of ours: expected lower-case letters, digits and dashes")
        return f"{self.directory}/{name}" if self.directory is not None else None

    def _tree(self, name: str) -> list[str]:
        """Sub-cgroup `name` and what is below, deepest first (the order rmdir wants)."""
        found = self._at(name)
        if found is None or not os.path.isdir(found):
            return []
        return [path for path, _, _ in os.walk(found, topdown=False)]


# No pathlib for what has a worker's number in it: it interns each part of a path, and numbers are always new ones.


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def _marked(directory: Path) -> bool:
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, attribute) == b"1":
                return True
    return False
