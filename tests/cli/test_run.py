from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import clusterd
from clusterd.config.settings import Settings

from .conftest import Site


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Path | None]]:
    """What master.run was called with; it returns 7."""
    calls: list[tuple[Settings, Path | None]] = []
    fake: Any = types.ModuleType("clusterd.master")
    fake.run = lambda settings, runtime, options: calls.append((settings, runtime)) or 7
    monkeypatch.setitem(sys.modules, "clusterd.master", fake)
    monkeypatch.setattr(clusterd, "master", fake, raising=False)
    return calls


def test_defaults(site: Site, ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An application is served from here, on the loopback, by the interpreter of the active virtual environment."""
    monkeypatch.chdir(site.root)
    monkeypatch.setenv("VIRTUAL_ENV", "/srv/venv")
    assert site.run("run", "hello:app")[0] == 7
    ((settings, runtime),) = ran
    assert (settings.app, settings.command, settings.name, runtime) == ("hello:app", None, "run", None)
    assert settings.directory == str(site.root)
    assert settings.python == "/srv/venv/bin/python"
    assert [address.text() for address in settings.listen] == ["127.0.0.1:8000"]


def test_options(site: Site, ran: list[Any]) -> None:
    """Each option is the setting of its name; relative paths are this directory's, symbolic links kept."""
    runtime = site.root / "runtime"
    link = site.root / "python"
    link.symlink_to(sys.executable)
    options = [
        "--listen", "127.0.0.1:0".replace(":0", ":9001"), "--listen", "[::1]:9001", "--workers", "3", "--python",
        os.path.relpath(link), "--engine", "uvicorn", "--directory", os.path.relpath(site.root), "--name", "shop",
        "--runtime", str(runtime),
    ]  # fmt: skip
    assert site.run("run", "hello:make()", *options)[0] == 7
    ((settings, where),) = ran
    assert [address.text() for address in settings.listen] == ["127.0.0.1:9001", "[::1]:9001"]
    assert (settings.workers, settings.python, settings.engine) == (3, str(link), "uvicorn")
    assert (settings.directory, settings.name, where) == (str(site.root), "shop", runtime)
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_command(site: Site, ran: list[Any]) -> None:
    """--command is split as a shell would, and no shell runs it."""
    assert site.run("run", "--command", "node 'my server.js' $X")[0] == 7
    assert ran[0][0].command == ("node", "my server.js", "$X")


def test_file(site: Site, ran: list[Any]) -> None:
    """A file is run as it is, with what the options say in place of its keys."""
    path = site.write("hello", 'app = "hello:app"\nlisten = "8000"\nworkers = 2\n[reload]\nsoak = "9s"\n')
    assert site.run("run", str(path), "--workers", "5")[0] == 7
    settings = ran[0][0]
    assert (settings.name, settings.workers, settings.reload.soak) == ("hello", 5, 9.0)
    assert [address.port for address in settings.listen] == [8000]


def test_accounts_are_systemds(site: Site, ran: list[Any]) -> None:
    """`user` and `group` of a file have no effect in the foreground, and that is said."""
    path = site.write("hello", 'app = "hello:app"\nlisten = "8000"\nuser = "www-data"\n')
    status, _, err = site.run("run", str(path))
    assert (status, err) == (7, f"warning: {path}: user: only systemd changes accounts, ignoring\n")


def test_tables_of_the_unit(site: Site, ran: list[Any]) -> None:
    """[sandbox], [limits] and [credentials] have no effect in the foreground, and that is said of each."""
    tables = '[sandbox]\njit = false\n[limits]\nmemory = "1G"\n[credentials]\ndb = "/nonexistent"\n'
    path = site.write("hello", f'app = "hello:app"\nlisten = "8000"\n{tables}')
    status, _, err = site.run("run", str(path))
    assert status == 7 and err.splitlines() == [
        f"warning: {path}: {table}: only systemd can bring it into effect, ignoring"
        for table in ("sandbox", "limits", "credentials")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to run"),
        (["hello:app", "--command", "x"], "one or the other"),
        (["hello"], 'hint: name the object in the module too: "hello:app"'),
        (["hello:app", "--listen", "nowhere"], "listen"),
        (["hello:app", "--workers", "0"], "workers"),
        (["--command", "'open"], "--command: No closing quotation"),
        (["missing.toml"], "No such file"),
        (["hello:app", "--name", "No Name"], "name"),
    ],
)
def test_wrong(site: Site, ran: list[Any], arguments: list[str], words: str) -> None:
    """What cannot be run is exit status 2, with the reason, before anything is started."""
    status, out, err = site.run("run", *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert not ran
