"""The package's postinst, run with programs that do what a test says in the place of the machine's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.patience import HANG

SCRIPT = Path(__file__).resolve().parents[2] / "packaging" / "debian" / "clusterd.postinst"


def configure(tmp_path: Path, clusterd: str, patience: str = "600") -> subprocess.CompletedProcess[str]:
    """An upgrade as dpkg has it done, with that shell code for `clusterd`, and so many seconds for it."""
    for name, code in {"clusterd": clusterd, "systemctl": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    text = SCRIPT.read_text()
    assert "patience=600\n" in text
    text = text.replace("patience=600\n", f"patience={patience}\n").replace("kill-after=5", "kill-after=0.1")
    text = text.replace("/run/systemd/system", str(tmp_path))
    argv = ["/bin/sh", "-c", text, "postinst", "configure", "0.0.1"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=HANG)


@pytest.mark.parametrize("ignored", ["", "trap '' TERM; "], ids=["ends", "ends not"])
def test_an_application_that_never_answers(tmp_path: Path, ignored: str) -> None:
    """dpkg goes on without it, and the operator reads what to run when it answers again."""
    os.mkfifo(tmp_path / "never")
    done = configure(tmp_path, f"{ignored}while :; do read -r line <{tmp_path}/never; done", patience="0.1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "clusterd upgrade NAME" in done.stderr and "10 minutes" in done.stderr


@pytest.mark.parametrize("status", [0, 1])
def test_one_that_answers(tmp_path: Path, status: int) -> None:
    """Done or refused, which the command itself tells, the package is configured, and there is nothing to add."""
    done = configure(tmp_path, f"echo told; exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")
