"""The examples of docs/messages-and-state.md, the files that it quotes, and the types of the public API."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clusterd import worker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/messages-and-state.md").read_text()
SESSIONS = sorted((ROOT / "examples/sessions").glob("*.py"))
MYPY = ["-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]


def python(directory: Path, *arguments: str | Path) -> None:
    env = {"PYTHONPATH": str(ROOT / "service"), "MYPYPATH": str(ROOT / "service"), "PATH": os.environ["PATH"]}
    command = [sys.executable, *arguments]
    made = subprocess.run(command, capture_output=True, text=True, env=env, cwd=directory, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr


def test_examples(tmp_path: Path) -> None:
    """Those in Python are one program: it runs, and mypy has nothing to say about it and the recipes for sessions."""
    program = tmp_path / "program.py"
    program.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)))
    python(tmp_path, "-B", program)
    python(tmp_path, *MYPY, "--allow-subclassing-any", program, *SESSIONS)  # Django has no types


@pytest.mark.parametrize("recipe", SESSIONS, ids=lambda path: path.name)
def test_quoted(recipe: Path) -> None:
    """The page links each recipe and quotes the lines that use it as the file has them."""
    lines = re.findall(r"^    .*$", ast.get_docstring(ast.parse(recipe.read_text())) or "", re.M)
    assert len(lines) >= 2
    assert f"(../examples/sessions/{recipe.name})" in PAGE
    assert "\n\n" + "\n".join(lines) + "\n\n" in PAGE


def test_types(tmp_path: Path) -> None:
    """An application that uses every public name type-checks strictly."""
    python(tmp_path, *MYPY, ROOT / "tests/worker/api.py")


def test_every_name_is_used_in_it() -> None:
    """What the module offers is in tests/worker/api.py, and says what it is for."""
    text = (ROOT / "tests/worker/api.py").read_text()
    assert {"broadcast", "cache", "id", "sync"} < set(dir(worker))
    for name in dir(worker):
        assert re.search(rf"\bworker\.{name}\b", text), name
        found = getattr(worker, name)
        assert not callable(found) or found.__doc__, name
