"""The linters are tests: each must find nothing. One that is not installed is skipped for a person, and fails in CI."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lacking import lacking

PROJECT = Path(__file__).resolve().parent.parent


def lint(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a linter on the project and return what it said; fails with that when its exit status is not 0."""
    tool = str(argv[0])
    lacking(None if shutil.which(tool) else f"missing: {tool} (`make lint` as root installs it)")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    done = subprocess.run([*map(str, argv)], cwd=PROJECT, capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{tool} exited {done.returncode}:\n{said}"
    return said


def module(name: str, *arguments: str) -> str:
    """A linter of the tests' own environment."""
    found = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0
    lacking(None if found else f"missing: {name} (`make lint` installs it)")
    return lint(sys.executable, "-m", name, *arguments)


def tracked() -> list[Path]:
    """Every file of the project, built and ignored ones left out."""
    try:
        argv = [
            "git",
            "-c",
            f"safe.directory={PROJECT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        listed = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
        files = [PROJECT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # a source tree without git
        parts = {"build", "__pycache__"}
        files = [path for path in PROJECT.rglob("*") if not parts & set(path.relative_to(PROJECT).parts)]
    return sorted(path for path in files if path.is_file())


def test_ruff() -> None:
    """ruff finds nothing in any Python file, and would format none differently."""
    module("ruff", "check", ".")


def test_mypy() -> None:
    """The service is typed strictly, throughout."""
    module("mypy")


def test_shellcheck() -> None:
    """shellcheck finds nothing in any shell script, the package's maintainer scripts included."""
    scripts = [path for path in tracked() if re.match(rb"#!\s*/bin/(ba|da)?sh\b", path.read_bytes()[:64])]
    assert len(scripts) >= 5
    lint("shellcheck", *scripts)


def test_units_verify(tmp_path: Path) -> None:
    """systemd-analyze verify accepts the units, with every complaint counted as an error."""
    # In a root of their own: the units of the machine the tests run on are not ours to judge.
    units = sorted((PROJECT / "units").glob("cluster*.[st][eoa]*"))
    assert [unit.name for unit in units] == ["cluster.target", "cluster@.service", "cluster@.socket"]
    for unit in units:
        shutil.copy(unit, tmp_path)
    drop_in = tmp_path / "cluster@.socket.d"
    drop_in.mkdir()
    (drop_in / "50-clusterd.conf").write_text("[Socket]\nListenStream=127.0.0.1:8000\n")
    program = re.compile(r"^(Exec\w+=[-@:+!|]*)/usr/bin/clusterd\b", re.MULTILINE)  # not installed out here
    service = tmp_path / "cluster@.service"
    service.write_text(program.sub(r"\1/bin/true", service.read_text()))
    (tmp_path / "cluster@lint.service").symlink_to("cluster@.service")
    (tmp_path / "cluster@lint.socket").symlink_to("cluster@.socket")
    said = lint(
        "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes",
        *(tmp_path / name for name in ("cluster.target", "cluster@lint.service", "cluster@lint.socket")),
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert str(tmp_path) not in said, said


def test_user_units_verify(tmp_path: Path) -> None:
    """The same for the units of a user's own systemd."""
    for unit in (*(PROJECT / "units" / "user").iterdir(), PROJECT / "units" / "cluster@.socket"):
        text = re.sub(r"(?m)^(Exec\w+=)/usr/bin/clusterd\b", r"\1/bin/true", unit.read_text())
        (tmp_path / unit.name.replace("@", "@lint")).write_text(text)
    drop_in = tmp_path / "cluster@lint.socket.d"
    drop_in.mkdir()
    (drop_in / "50-clusterd.conf").write_text("[Socket]\nListenStream=127.0.0.1:8000\n")
    names = ("cluster.target", "cluster@lint.service", "cluster@lint.socket")
    environment = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    said = lint(
        "systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=yes",
        *(tmp_path / name for name in names), env=environment,
    )  # fmt: skip
    assert "cluster" not in said, said


def test_lintian(deb: Path) -> None:
    """lintian finds neither an error nor a warning in the package, but for those overridden with their reason."""
    said = lint("lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", deb)
    assert not re.findall(r"^[EW]: .*", said, re.MULTILINE)


def test_lintian_overrides_have_reasons() -> None:
    """Each override has its reason above it."""
    text = (PROJECT / "packaging/debian/clusterd.lintian-overrides").read_text()
    for paragraph in text.strip().split("\n\n"):
        assert re.match(r"(# .*\n)+clusterd: .*$", paragraph), f"no reason above '{paragraph}'"


def test_docstrings() -> None:
    """Every test says in its docstring the rule it holds."""
    without = [
        f"{path.relative_to(PROJECT)}:{node.lineno}: {node.name}"
        for path in tracked()
        if path.match("tests/**/test_*.py") or path.match("tests/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not ast.get_docstring(node)
    ]
    assert not without, "\n".join(without)


def test_no_machine_in_the_project() -> None:
    """No file of the project names a directory that exists only where it was written."""
    # Put together here, so that this file does not name them.
    names = re.compile(rb"(^|[\s\"'=(:])/(" + b"|".join([b"wo" + b"rk/", b"ro" + b"ot/\\.", b"home/[a-z]+/"]) + b")")
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.decode(errors='replace').strip()}"
        for path in tracked()
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if names.search(line)
    ]
    assert not found, "\n".join(found)
