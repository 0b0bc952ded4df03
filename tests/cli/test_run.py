from __future__ import annotations

import os
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import clusterd
from clusterd.config.places import MAX_RUNTIME, MAX_RUNTIME_APP
from clusterd.config.settings import Settings, Tls

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


APP = 'app = "hello:app"\nlisten = "8000"\n'
TLS = APP + '[tls]\ncertificate = "/a.pem"\nkey = "/a.key"\nminimum-version = "1.3"\n'
MINE = ("--tls-certificate", "/b.pem")


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (TLS, (*MINE, "--tls-key", "/b.key"), Tls("/b.pem", "/b.key", "1.3")),
        (TLS, MINE, Tls("/b.pem", "/a.key", "1.3")),
        (APP, (*MINE, "--tls-key", "/b.key"), Tls("/b.pem", "/b.key", "1.2")),
        (APP + '[tls]\nkey = "/a.key"\n', MINE, Tls("/b.pem", "/a.key", "1.2")),
        (APP + '[profile.new.tls]\ncertificate = "/c.pem"\nkey = "/c.key"\n', MINE, Tls("/b.pem", "/c.key", "1.2")),
    ],
)
def test_a_files_tls(site: Site, ran: list[Any], text: str, options: tuple[str, ...], expected: Tls) -> None:
    """An option is in the place of its own key: what the file and its profile say of TLS besides, is kept."""
    profile = ("--profile", "new") if "profile" in text else ()
    assert site.run("run", str(site.write("hello", text)), *options, *profile)[0] == 7
    assert ran[0][0].tls == expected


@pytest.mark.parametrize(
    "option", ["--listen", "--workers", "--directory", "--python", "--tls-certificate", "--tls-key"]
)
@pytest.mark.parametrize("what", ["hello:app", "FILE"])
def test_an_empty_value(site: Site, ran: list[Any], option: str, what: str) -> None:
    """An option without a value, as a variable that is not set leaves it, is an error that names it: no TLS is left
    out for it."""
    found = str(site.write("hello")) if what == "FILE" else what
    status, _, err = site.run("run", found, "--tls-certificate", "/a", "--tls-key", "/a", option, "")
    assert (status, ran) == (2, []) and err.startswith(f"clusterd: {option}: its value is empty\n")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--engine", "granian"), "engine"),
        (("--python", "/usr/bin/python3"), "python"),
        ((*MINE, "--tls-key", "/b.key"), "tls-certificate"),
    ],
)
def test_options_of_an_application(site: Site, ran: list[Any], options: tuple[str, ...], key: str) -> None:
    """What only an application has is refused of a file with a command, and not ignored."""
    path = site.write("hello", 'command = ["node", "server.js"]\nlisten = "8000"\n')
    status, _, err = site.run("run", str(path), *options)
    assert (status, ran) == (2, [])
    assert f"error: clusterd run: --{key}: found a key that only 'app' has, expected a key that 'command' has\n" in err


def test_options_are_checked_with_the_file(site: Site, ran: list[Any]) -> None:
    """What a file and an option get wrong together is told, of the option where it is the option's key."""
    path = site.write("hello", APP + "[http]\nthreads = 8\n")
    status, _, err = site.run("run", str(path), "--engine", "uvicorn", "--workers", "0")
    assert (status, ran) == (2, [])
    assert f"error: {path}: http.threads: found 8, which uvicorn cannot do" in err
    assert "error: clusterd run: --workers: found 0, expected" in err and err.endswith(f"{path}: 2 problems\n")


def test_neighbours_do_not_matter(site: Site, ran: list[Any]) -> None:
    """Two files with one address may be run one at a time: nobody runs what lies beside in the foreground."""
    path = site.write("hello")
    site.write("aaa")
    assert site.run("run", str(path))[0] == 7


@pytest.mark.parametrize(
    ("what", "most", "path"),
    [
        (("hello:app",), MAX_RUNTIME_APP, "control"),
        (("--command", "server", "--listen", "8000"), MAX_RUNTIME, "notify/4294967295"),
    ],
    ids=["app", "command"],
)
def test_a_long_runtime_directory(
    site: Site, ran: list[Any], monkeypatch: pytest.MonkeyPatch, what: tuple[str, ...], most: int, path: str
) -> None:
    """The longest that is taken has room for every socket in it; of a longer one the limit is told."""
    monkeypatch.chdir(site.root)
    longest = "x" * (most - len(f"{site.root}/"))
    assert site.run("run", *what, "--runtime", longest)[0] == 7
    assert ran[0][1] == site.root / longest
    (site.root / longest / path).parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{site.root / longest}/{path}")
    status, _, err = site.run("run", *what, "--runtime", longest + "x")
    assert (status, len(ran)) == (2, 1)
    assert err.startswith(f"clusterd: --runtime: at most {most} bytes, for its sockets: ")
    assert site.run("run", "hello:app", "--runtime", "")[2] == "clusterd: --runtime: its value is empty\n"


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
        (["hello:app", "--workers", "9" * 5000], 'workers: found "999'),
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
