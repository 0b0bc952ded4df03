from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import __version__
from clusterd.cli import manual, roff
from clusterd.cli.exits import MEANING
from clusterd.cli.program import WIDTH, clusterd
from tests.lacking import lacking
from tests.patience import HANG

from .conftest import Master, Site, done, progress

COMMANDS = sorted(clusterd.commands)


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`clusterd ARGUMENTS` as its own process."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-m", "clusterd", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=HANG)


@pytest.mark.parametrize("columns", [80, 300])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(site: Site, monkeypatch: pytest.MonkeyPatch, command: str, columns: int) -> None:
    """--help is on standard output, says something, and is never wider than 100 columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = site.run(*filter(None, [command]), "--help")
    assert (status, err) == (0, "")
    assert out.startswith("Usage: clusterd") and len(out.splitlines()) > 5
    assert max(map(len, out.splitlines())) <= WIDTH == 100


def test_help_of_the_program(site: Site) -> None:
    """The program's help names every command with a whole sentence, and every exit status."""
    out = site.run("--help")[1]
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S.*\.$", out, re.MULTILINE), name
    for status, text in MEANING.items():
        assert f"  {int(status):<4} {text}\n" in out


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["status"], ["status", "--nothing"], ["list", "x"], ["version", "x"]]
)
def test_wrong_usage(site: Site, arguments: list[str]) -> None:
    """Wrong usage is exit status 2 and an error on standard error, nothing on standard output."""
    status, out, err = site.run(*arguments)
    assert (status, out) == (2, "")
    assert "Error: " in err


def test_version(site: Site) -> None:
    """version prints the version, and as JSON the interpreter's too."""
    assert site.run("version") == (0, f"clusterd {__version__}\n", "")
    assert json.loads(site.run("version", "--json")[1])["clusterd"] == __version__


@pytest.mark.parametrize(
    ("arguments", "module", "function"),
    [(["keeper", "3"], "keeper", "main"), (["usher", "3"], "usher", "main"), (["master", "hello"], "master", "start")],
)
def test_daemons_come_without_the_command_line(arguments: list[str], module: str, function: str) -> None:
    """keeper, usher and master are started without importing click or rich, and their status is the program's."""
    code = f"""
import sys, types, clusterd
daemon = types.ModuleType("clusterd.{module}")
daemon.{function} = lambda given: print(given, "click" in sys.modules, "rich" in sys.modules) or 9
sys.modules["clusterd.{module}"] = clusterd.{module} = daemon
from clusterd.__main__ import main
sys.exit(main({arguments!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG)
    expected = arguments[1] if module == "master" else arguments[1:]
    assert (ran.stdout, ran.stderr, ran.returncode) == (f"{expected} False False\n", "", 9)


def test_master_by_hand() -> None:
    """'clusterd master' without a name is wrong usage, and hidden from the help."""
    done = program("master")
    assert (done.returncode, done.stdout) == (2, "")
    assert "what the unit cluster@NAME runs" in done.stderr
    assert "keeper" not in program("--help").stdout


def test_plain_when_not_on_a_terminal(site: Site) -> None:
    """Into a pipe nothing is coloured, moved or redrawn."""
    site.master("hello").answers("Reload", progress("preparing", 1, 2), done())
    ran = program("--runtime-dir", str(site.runtime), "reload", "hello", TERM="xterm")
    assert ran.returncode == 0
    assert "\x1b" not in ran.stdout + ran.stderr and "\r" not in ran.stdout + ran.stderr


def on_terminal(*arguments: str, **environment: str) -> str:
    """What `clusterd ARGUMENTS` writes on a terminal."""
    outer, inner = pty.openpty()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "clusterd", *arguments], env=variables, stdin=inner, stdout=inner, stderr=inner
    ) as process:
        os.close(inner)
        written = b""
        while select.select([outer], [], [], 60)[0]:
            try:
                if not (chunk := os.read(outer, 65536)):
                    break
            except OSError:  # EIO: the last one to have the terminal open has gone
                break
            written += chunk
        os.close(outer)
        assert process.wait(HANG) == 0
    return written.decode()


def scripted(site: Site) -> Master:
    master = site.master("hello")
    master.answers("Reload", progress("preparing", 1, 2), progress("soaking", 2, 2), done())
    return master


def test_live_on_a_terminal(site: Site) -> None:
    """On a terminal the progress is one line that is redrawn, and tables have colours."""
    scripted(site)
    shown = on_terminal("--runtime-dir", str(site.runtime), "reload", "hello")
    assert "\x1b[" in shown and "#13: 2/2 in 0.9 s" in shown
    assert "\x1b[32mserving" in on_terminal("--runtime-dir", str(site.runtime), "status", "hello")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_where_asked(site: Site, variables: dict[str, str]) -> None:
    """NO_COLOR and a terminal that can do nothing get plain lines."""
    scripted(site)
    shown = on_terminal("--runtime-dir", str(site.runtime), "reload", "hello", **variables)
    assert "\x1b" not in shown and "preparing 1/2 ready" in shown
    assert "\x1b" not in on_terminal("--runtime-dir", str(site.runtime), "status", "hello", **variables)


def test_manual_has_every_command_and_option() -> None:
    """clusterd(8) has every command, every option with its help, and every exit status."""
    page = manual.page()
    for name, command in clusterd.commands.items():
        words = name.replace("-", "\\-")
        assert f".SS \\fBclusterd {words}\\fR" in page or f".SS clusterd {words}" in page, name
        for option in (p for p in command.params if isinstance(p, click.Option)):
            for spelled in option.opts:
                assert roff.escape(spelled) in page, f"{name} {spelled}"
            assert option.help and roff.prose(option.help.split("  ")[0]) in page, f"{name} {option.opts}"
    for option in (p for p in clusterd.params if isinstance(p, click.Option)):
        assert roff.escape(option.opts[0]) in page
    for status, text in MEANING.items():
        assert f".TP\n\\fB{int(status)}\\fR\n{roff.prose(text)}" in page


def test_manual_is_clean(tmp_path: Path) -> None:
    """man renders the page without a warning, and no mark-up of the source is left in it."""
    page = tmp_path / "clusterd.8"
    page.write_text(manual.page())
    try:
        command = ["man", "--warnings", "-l", str(page)]
        environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG)
    except FileNotFoundError:
        lacking("man (apt install man-db)")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "**" not in shown.stdout and "_NAME_" not in shown.stdout and "\\" not in shown.stdout
    assert "CLUSTERD(8)" in shown.stdout


def test_manual_is_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's date is the source's where SOURCE_DATE_EPOCH says so."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert '"1970-01-01"' in manual.page().splitlines()[0]


@given(st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs"))))
def test_roff_has_no_macro_in_text(text: str) -> None:
    """No text can become a macro or an escape of roff's that was not written as one."""
    escaped = roff.escape(text)
    assert not escaped.startswith((".", "'"))
    assert re.sub(r"\\(e|-|&|\([a-z]{2})", "", escaped).count("\\") == 0
