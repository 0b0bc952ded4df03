"""Why an application cannot be served: one line for people, the application's own traceback for the journal."""

from __future__ import annotations

import os
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
    text = one_line(str(error), 300)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
