"""The examples of docs/messages-and-state.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_examples(tmp_path: Path) -> None:
    """Those in Python are one program: it runs, and mypy has nothing to say about it."""
    page = (ROOT / "docs/messages-and-state.md").read_text()
    program = tmp_path / "program.py"
    program.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)))
    env = {"PYTHONPATH": str(ROOT / "service"), "MYPYPATH": str(ROOT / "service"), "PATH": os.environ["PATH"]}
    for tool in (["-B"], ["-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]):
        command = [sys.executable, *tool, str(program)]
        made = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
        assert made.returncode == 0, made.stdout + made.stderr
