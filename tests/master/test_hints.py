"""What an application says when its sandbox stops it, and the key of the file that is then named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clusterd.config.load import from_run
from clusterd.config.settings import Sandbox, Settings
from clusterd.master.hints import hint

BASE = replace(from_run(app="a:b", directory="/srv/hello"), python="/usr/bin/python3")
EROFS = "OSError: [Errno 30] Read-only file system: '/srv/hello/uploads/x.png'"


@pytest.mark.parametrize(
    ("text", "sandbox", "says"),
    [
        (EROFS, Sandbox(), '[sandbox] write = ["/srv/hello/uploads"]'),
        (f"[Errno 30] Read-only file system: '/var/x'\nduring this\n{EROFS}", Sandbox(), '"/srv/hello/uploads"'),
        (EROFS, Sandbox(write=("/srv/hello",)), "the unit does not have '/srv/hello' of [sandbox] write yet"),
        ("PermissionError: [Errno 13] Permission denied: '/home/u1/data'", Sandbox(), '[sandbox] home = "read-only"'),
        ("PermissionError: [Errno 13] Permission denied: '/home/u1/data'", Sandbox(home="read-only"), ""),
        ("PermissionError: [Errno 13] Permission denied: '/srv/hello/x'", Sandbox(), ""),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/dev/dri/card0'", Sandbox(), 'devices = ["/dev/dri'),
        ("sqlite3.OperationalError: attempt to write a readonly database", Sandbox(), "SQLite"),
        ("django.db.utils.OperationalError: unable to open database file", Sandbox(), "[sandbox] write"),
        ("MemoryError", Sandbox(jit=False), "[sandbox] jit = false"),
        ("MemoryError", Sandbox(), ""),
        ("the zygote ended: killed by SIGSEGV", Sandbox(jit=False), "[sandbox] jit = false"),
        ("TimeoutError: timed out", Sandbox(network="local"), "[sandbox] network"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", Sandbox(network="local"), "network"),
        ("TimeoutError: timed out", Sandbox(), ""),
        ("PermissionError: [Errno 1] Operation not permitted", Sandbox(), "sandbox.md"),
        ("ModuleNotFoundError: No module named 'x'", Sandbox(), ""),
        ("", Sandbox(), ""),
    ],
)  # fmt: skip
def test_hint(text: str, sandbox: Sandbox, says: str) -> None:
    """The failure names its key where the sandbox is known to be the reason, and none where it is not."""
    found = hint(text, replace(BASE, sandbox=sandbox))
    assert says in found and bool(says) == bool(found), found


def test_an_application_at_home() -> None:
    """Where homes are readable anyway, a refusal there is the files' own."""
    at_home: Settings = replace(BASE, directory="/home/u1/app")
    assert hint("PermissionError: [Errno 13] Permission denied: '/home/u1/data'", at_home) == ""


def test_any_size() -> None:
    """Whatever the application says, looking at it takes no time to speak of."""
    hint("Errno 30] Read-only file system: " * 20_000, BASE)
    hint("x" * 1_000_000, BASE)
