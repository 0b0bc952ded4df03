"""The likeliest mistakes about the machine, each made for real; docs/mistakes.md has their messages."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mistakes
from tests.patience import HANG
from tests.run.foreground import APP, CLUSTERD, free_port

SECTION = "The machine"
OLD = """\
#!/usr/bin/python3
import runpy, sys
script = next(n for n, word in enumerate(sys.argv) if word.endswith("clusterd_zygote.py"))
sys.version_info, sys.executable, sys.argv = (3, 9, 2, "final", 0), sys.argv[0], sys.argv[script:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""What stands for an interpreter that Debian 11 has."""
ALLOWED, DENIED = ((1, 6, 0xFFFFFFFF), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)), (2, 0, 65534)
CLOSED = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted([*ALLOWED, DENIED]))
"""An access control list: user 65534 may do nothing, everybody else may read (acl(5), linux/posix_acl_xattr.h)."""
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

CHECKED: dict[str, str] = {
    "A virtual environment whose Python is gone": 'python = "/srv/hello/broken/bin/python"',
    "The virtual environment for its interpreter": 'python = "/srv/hello/venv"',
    "A directory for an interpreter": 'python = "/srv/hello/bin"',
    "An interpreter that is not executable": 'python = "/srv/hello/hello.py"',
    "A file for the directory": 'directory = "/srv/hello/hello.py"',
    "An account that is not there": 'user = "no-such-user"',
    "A group that is not there": 'user = "nobody"\ngroup = "no-such-group"',
    "An application below /tmp": 'directory = "/tmp"',
}
"""Refused or warned of by `clusterd check`, for root."""
RUN: dict[str, str] = {
    "A port that another program has": "127.0.0.1:PORT",
    "An address of another machine": "192.0.2.1:8000",
    "A UNIX socket in a directory that is not there": "/srv/hello/none/hello.sock",
    "A port below 1024 without root": "127.0.0.1:80",
    "A home that the account may not enter": "127.0.0.1:PORT",
    "A full disk": "127.0.0.1:PORT",
    "Too few open files": "127.0.0.1:PORT",
    "A Python that is too old": "127.0.0.1:PORT",
    "A file that only root may read": "127.0.0.1:PORT",
    "A file that an access control list closes": "127.0.0.1:PORT",
}
"""Refused by `clusterd run`; what it listens on."""


@pytest.fixture
def home() -> Iterator[Path]:
    """What stands for /srv/hello, below a directory that every account may enter."""
    made = Path(tempfile.mkdtemp(prefix="clusterd-test-"))
    made.chmod(0o755)
    for name in ("broken/bin", "venv/bin", "old/bin", "bin", "etc", "closed"):
        (made / name).mkdir(parents=True)
    (made / "closed").chmod(0o700)
    (made / "broken/bin/python").symlink_to("/nonexistent/python3.7")
    for name in ("broken", "venv"):
        (made / name / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (made / "old/bin/python").write_text(OLD)
    (made / "old/bin/python").chmod(0o755)
    (made / "hello.py").write_text(APP)
    (made / "secret.json").write_text("{}")
    yield made
    shutil.rmtree(made)


def said(home: Path, *argv: str) -> str:
    """What `argv` printed to standard error, with the places that it would name on a machine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CLUSTERD_", "VIRTUAL_ENV"))}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANG, env=environment)
    return done.stderr.replace(str(home / "etc"), "/etc/clusterd").replace(str(home), "/srv/hello")


def written(home: Path, listen: str, more: str = "") -> Path:
    keys = {"directory": f'"{home}"', "python": f'"{sys.executable}"'}
    lines = [f"{key} = {value}" for key, value in keys.items() if f"{key} =" not in more]
    text = "\n".join(['app = "hello:app"', f'listen = "{listen}"', *lines, more.replace("/srv/hello", str(home))])
    file = home / "etc/hello.toml"
    file.write_text(text + "\n")
    return file


@pytest.mark.parametrize("title", CHECKED)
def test_check(home: Path, title: str) -> None:
    """check tells each for root, with exactly what the page has."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who is told of accounts")
    file = written(home, "8000", CHECKED[title])
    where = ["--config-dir", str(home / "etc"), "--runtime-dir", str(home / "run")]
    told = said(home, *CLUSTERD, *where, "check", str(file))
    lines = told.splitlines()
    if title != "An application below /tmp":  # the test's own directory is one
        lines = [x for i, x in enumerate(lines) if not (x + lines[max(i - 1, 0)]).count("outside of /tmp")]
    assert "\n".join(lines) + "\n" == mistakes.sections()[SECTION].get(title)


@pytest.mark.parametrize("title", RUN)
def test_run(home: Path, title: str) -> None:
    """run ends at each, with exactly what the page has."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount and to become somebody else")
    port, before = free_port(), []
    more, options = "", []
    if "account" in title or "without root" in title or "A file" in title:
        before = NOBODY
    if "home" in title:
        more = 'directory = "/srv/hello/closed"'
    if title == "A full disk":
        script = 'mount -t tmpfs -o size=8k tmpfs "$0/bin"; exec "$@"'
        before, options = ["unshare", "-m", "sh", "-c", script, str(home)], ["--runtime", str(home / "bin")]
    if title == "Too few open files":
        before = ["prlimit", "--nofile=70:70", "--"]
    if "too old" in title:
        more = 'python = "/srv/hello/old/bin/python"'
    if "A file" in title:
        (home / "hello.py").write_text(APP + "SECRET = open('secret.json').read()\n")
        (home / "secret.json").chmod(0o644 if "list" in title else 0o600)
    if "list" in title:
        os.setxattr(home / "secret.json", "system.posix_acl_access", CLOSED)
    file = written(home, RUN[title].replace("PORT", str(port)).replace("/srv/hello", str(home)), more)
    with socket.socket() as other:
        if "another program" in title:
            other.bind(("127.0.0.1", port))
            other.listen()
        told = said(home, *before, *CLUSTERD, "run", str(file), *options)
    told = next((f"{line}\n" for line in told.splitlines() if ": start failed: " in line), told)  # of a longer story
    told = told.replace(f":{port}", ":8000").replace(f"pid {os.getpid()}", "pid 4711")
    if title.startswith("A port below") and "privileged" not in told:
        pytest.skip("every port is for everybody here")
    assert told == mistakes.sections()[SECTION].get(title)


def test_page_is_whole() -> None:
    """The page has these, in this order, and no other."""
    assert list(mistakes.sections()[SECTION]) == [*CHECKED, *RUN]
