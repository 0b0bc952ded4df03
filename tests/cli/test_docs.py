from __future__ import annotations

import re
from pathlib import Path

import pytest

from clusterd.cli.exits import MEANING
from clusterd.cli.program import clusterd
from clusterd.config.settings import TABLE
from clusterd.shell.messages import MESSAGES, Priority

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
HIDDEN = {"drain", "keeper", "master", "usher"}
PROSE = {"is", "does", "runs"}
"""What may follow the name of the program in a sentence."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file or directory of the project."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target and not (page.parent / target).exists():
            # the benchmark writes this one
            assert Path(target).name == "benchmarks.md", f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Every `clusterd COMMAND` in a page is one."""
    for quoted in re.findall(r"`([^`\n]+)`|^ {4}(.+)$", page.read_text(), re.MULTILINE):
        for word in re.findall(r"(?<![/\w])(?<!from )clusterd ([a-z]+(?:-[a-z]+)*)\b", "".join(quoted)):
            assert word in clusterd.commands or word in HIDDEN | PROSE, f"{page.name}: clusterd {word}"


def test_operations_has_every_exit_status() -> None:
    """The operator's page has a row for every exit status, and none besides."""
    text = (PROJECT / "docs" / "operations.md").read_text()
    section = text.split("## Exit statuses", 1)[1].split("\n## ", 1)[0]
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == [int(s) for s in MEANING]


def test_operations_has_every_fault() -> None:
    """The operator's page says of every record that warns, what clusterd does then and what clients notice."""
    text = (PROJECT / "docs" / "operations.md").read_text().split("## Each kind of fault", 1)[1].split("\n## ", 1)[0]
    told = "\n".join(line.split("|")[3] for line in text.splitlines() if line.count("|") == 5)
    values = {"APP": "hello", "WORKER": "17", "GENERATION": "4", "TASK": "users"}
    for name, message in MESSAGES.items():
        if message.priority <= Priority.WARNING:
            assert re.sub(r"@CLUSTERD_(\w+)@", lambda field: values[field[1]], message.subject) in told, name


def test_pages_fit() -> None:
    """Pages are readable as text: no line of prose beyond 130 columns, tables aside."""
    for page in PAGES[:1] + [page for page in PAGES if page.name in ("operations.md", "deploying.md")]:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert len(line) <= 130 or line.startswith("|"), f"{page.name}:{number}"


@pytest.mark.parametrize("page", ["coming-from-gunicorn.md", "coming-from-uvicorn.md"])
def test_keys_of_those_who_come(page: str) -> None:
    """Every key that a page for those who come from elsewhere names, is one."""
    text = (PROJECT / "docs" / page).read_text()
    tables = {key.partition(".")[0] for key in TABLE if "." in key}
    named = re.findall(rf"`((?:{'|'.join(tables)})\.[a-z-]+)", text)
    assert named and [key for key in named if key not in TABLE] == []
