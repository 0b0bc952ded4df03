"""Why an application cannot be served: one line for people, the application's own traceback for the journal."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import traceback
from types import TracebackType

_HERE = os.path.dirname(os.path.abspath(__file__))


class Refusal(Exception):
    """`reason`: one line that says what, where, and what to do. `traceback`: text, or empty."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.reason = one_line(reason)
        self.traceback = traceback


def one_line(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(error: BaseException) -> str:
    """'ZeroDivisionError: division by zero', in one line."""
    text = one_line(str(error), 300) + _denied(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _denied(error: BaseException) -> str:
    """Whose it is that may not be opened, and by whom; '' where it is about nothing of the kind."""
    if not isinstance(error, PermissionError) or error.errno != errno.EACCES or not isinstance(error.filename, str):
        return ""
    path = os.path.abspath(error.filename)
    closed = next((parent for parent in _parents(path) if not os.access(parent, os.X_OK)), path)
    if not os.path.lexists(closed):  # it was to be made
        closed = os.path.dirname(closed)
    try:
        status = os.stat(closed)
    except OSError:
        return ""
    told = f"{_name(status.st_uid)}:{_group(status.st_gid)}, mode {status.st_mode & 0o7777:04o}"
    told = told if closed == path else f"'{closed}' is {told}"
    told = f" ({told}; this process is {_name(os.geteuid())}:{_group(os.getegid())})"
    if _mode_allows(status) and not os.access(closed, os.R_OK):
        return f"{told}: its mode would let it be read, an ACL, SELinux, AppArmor or the unit's sandbox does not"
    return told


def _parents(path: str) -> list[str]:
    """From the root down to the directory that `path` is in."""
    parts = path.split("/")
    return ["/".join(parts[:n]) or "/" for n in range(1, len(parts))]


def _mode_allows(status: os.stat_result) -> bool:
    """Whether the mode bits alone would let this process read it."""
    if status.st_uid == os.geteuid():
        return bool(status.st_mode & 0o400)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(status.st_mode & 0o040)
    return bool(status.st_mode & 0o004)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def own_frames(filename: str) -> bool:
    """Whether a frame is ours or the import system's: noise to whoever reads about his application."""
    return (
        filename.startswith(("<frozen ", _HERE + os.sep))
        or os.path.basename(filename) == "clusterd_zygote.py"
        or filename.endswith(os.path.join("importlib", "__init__.py"))
    )


def frames(tb: TracebackType | None) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(tb) if not own_frames(frame.filename)]


def text_of(error: BaseException) -> str:
    """The traceback without our frames, chained exceptions included."""
    whole = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    queue: list[traceback.TracebackException | None] = [whole]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack = traceback.StackSummary.from_list([f for f in one.stack if not own_frames(f.filename)])
        queue += [one.__cause__, one.__context__]
    return "".join(whole.format())


def place(error: BaseException, directory: str) -> str:
    """'hello.py:7': the innermost line of the application that took part, or '' when none did."""
    found = frames(error.__traceback__)
    if not found:
        return ""
    here = os.path.join(directory, "")
    inside = [f for f in found if f.filename.startswith(here) and "site-packages" not in f.filename]
    frame = (inside or found)[-1]
    return f"{relative(frame.filename, directory)}:{frame.lineno}"


def relative(filename: str, directory: str) -> str:
    prefix = os.path.join(directory, "")
    return filename[len(prefix) :] if filename.startswith(prefix) else filename
