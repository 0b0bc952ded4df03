"""The examples of docs/messages-and-state.md, and those in files of their own that it quotes."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/messages-and-state.md").read_text()
SESSIONS = sorted((ROOT / "examples/sessions").glob("*.py"))


def test_examples(tmp_path: Path) -> None:
    """Those in Python are one program: it runs, and mypy has nothing to say about it and the recipes for sessions."""
    program = tmp_path / "program.py"
    program.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)))
    env = {"PYTHONPATH": str(ROOT / "service"), "MYPYPATH": str(ROOT / "service"), "PATH": os.environ["PATH"]}
    # Django has no types.
    mypy = ["mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports", "--allow-subclassing-any"]
    for command in (["-B", program], ["-m", *mypy, program, *SESSIONS]):
        made = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300
        )
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("recipe", SESSIONS, ids=lambda path: path.name)
def test_quoted(recipe: Path) -> None:
    """The page links each recipe and quotes the lines that use it as the file has them."""
    lines = re.findall(r"^    .*$", ast.get_docstring(ast.parse(recipe.read_text())) or "", re.M)
    assert len(lines) >= 2
    assert f"(../examples/sessions/{recipe.name})" in PAGE
    assert "\n\n" + "\n".join(lines) + "\n\n" in PAGE
