"""A standard output that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.patience import HANG

COMMANDS = (
    "schema",
    "--help",
    "version",
    "list",
    "check",
    "check --json",
    "init --stdout",
    "import-gunicorn --app a:b conf.py",
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text("async def app(scope, receive, send): ...\n")
    (tmp_path / "conf.py").write_text("workers = 2\n")
    (tmp_path / "hello.toml").write_text('app = "app:app"\nlisten = "8000"\n' + f'directory = "{tmp_path}"\n')
    return tmp_path


def run(here: Path, command: str, output: int) -> tuple[int, str]:
    """Exit status and standard error."""
    words = [sys.executable, "-I", "-B", str(PROJECT / "service/clusterd"), "--config-dir", str(here)]
    words += ["--runtime-dir", str(here), *command.split()]
    done = subprocess.run(words, stdout=output, stderr=subprocess.PIPE, cwd=here, text=True, timeout=HANG, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_full(here: Path, command: str) -> None:
    """Where no more can be written, each command says so in one line, and has failed."""
    with open("/dev/full", "w") as full:
        status, err = run(here, command, full.fileno())
    told = [line for line in err.splitlines() if line.startswith("clusterd: ")]
    assert (status, told) == (1, ["clusterd: standard output: No space left on device"])
    assert "Traceback" not in err and "Exception ignored" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_reads(here: Path, command: str) -> None:
    """Whoever reads no more, as head(1) after its lines, has what was wanted: no failure, and nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        status, err = run(here, command, writer)
    finally:
        os.close(writer)
    assert status == 0 and "clusterd: " not in err and "Traceback" not in err and "Exception ignored" not in err


@pytest.mark.parametrize("both", [True, False], ids=["with the output", "alone"])
def test_nobody_reads_the_errors(here: Path, both: bool) -> None:
    """A command that failed has failed, whoever has stopped reading: `clusterd check 2>&1 | head -1`."""
    (here / "hello.toml").write_text('app = "app:app"\nlisten = "8000"\nworkers = 0\nengine = "x"\nuser = 7\n')
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-I", "-B", str(PROJECT / "service/clusterd"), "--config-dir", str(here), "check", "hello"]
    try:
        output = writer if both else subprocess.DEVNULL
        done = subprocess.run(words, stdout=output, stderr=writer, timeout=HANG, check=False)
    finally:
        os.close(writer)
    assert done.returncode not in (0, 120)


def test_no_output(here: Path) -> None:
    """A standard output that is closed takes nothing, and fails nothing."""
    words = [sys.executable, "-I", "-B", str(PROJECT / "service/clusterd"), "version"]
    assert subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *words], timeout=HANG, check=False).returncode == 0
