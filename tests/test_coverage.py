"""The pure core is small enough for every way through it to be taken by a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHANCE = ("test_anything", "test_interrupted", "TestAnything")
"""They go everywhere, and hold what always holds: a branch is to be taken by a test that says what it is for."""
PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.proof
@pytest.mark.parametrize("package", ["core", "tasks"])
def test_every_branch_of_the_core(package: str, tmp_path: Path) -> None:
    """Tests that look for something in particular take every branch, and nothing is excepted."""
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "data"), "PYTHONPATH": str(PROJECT / "service")}
    coverage = [sys.executable, "-m", "coverage"]
    tests = [sys.executable, "-m", "coverage", "run", "--branch", "--source", f"clusterd.{package}"]
    tests += ["-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"tests/{package}"]
    tests += ["-k", f"not {' and not '.join(CHANCE)}"]
    done = subprocess.run(tests, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "report.json"
    subprocess.run([*coverage, "json", "-q", "-o", str(report)], cwd=PROJECT, env=environment, check=True)
    found = json.loads(report.read_text())
    assert found["totals"]["num_branches"] > 50
    missed = {
        name: (file["missing_lines"], file["missing_branches"], file["excluded_lines"])
        for name, file in found["files"].items()
        if file["missing_lines"] or file["missing_branches"] or file["excluded_lines"]
    }
    assert missed == {}
