"""`clusterd init`: what it finds in the files of an application, and that what it writes is right."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.cli import init
from clusterd.config import names
from clusterd.config.load import load
from clusterd.config.schema import schema

from .conftest import Site

Project = Callable[[dict[str, str]], Path]

DJANGO = {
    "manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n",
    "mysite/__init__.py": "",
    "mysite/settings.py": "WSGI_APPLICATION = 'mysite.wsgi.application'\n",
    "mysite/urls.py": "from django.urls import path\nurlpatterns = [path('healthz/', None)]\n",
    "mysite/asgi.py": "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n",
    "mysite/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
}
FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/healthz')\ndef healthz(): ...\n"
NODE = {"package.json": '{"main": "x.js", "scripts": {"start": "node src/server.js"}}'}

FOUND: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "fastapi": ({"main.py": FASTAPI}, {"app": "main:app", "health": {"path": "/healthz"}}, "FastAPI (ASGI)"),
    "flask": ({"app.py": "import flask\napp = flask.Flask(__name__)\n"}, {"app": "app:app"}, "Flask (WSGI)"),
    "starlette": (
        {"src/site/__init__.py": "", "src/site/web.py": "from starlette.applications import Starlette as S\nx = S()\n"},
        {"app": "site.web:x", "directory": "@/src"},
        "Starlette (ASGI)",
    ),
    "plain": ({"a.py": "async def serve(scope, receive, send):\n    if scope['path'] == '/health': pass\n"},
              {"app": "a:serve", "health": {"path": "/health"}}, "plain ASGI (ASGI)"),
    "plain wsgi": ({"a.py": "def app(environ, start_response): ...\n"}, {"app": "a:app"}, "plain WSGI (WSGI)"),
    "factory": (
        {"shop/__init__.py": "from flask import Flask\ndef create_app(config=None):\n    return Flask('x')\n"},
        {"app": "shop:create_app()"}, "Flask (WSGI)",
    ),
    "conditional": (
        {"a.py": "try:\n    from quart import Quart\nexcept E:\n    raise\nif 1:\n    app: Quart = Quart('')\n"},
        {"app": "a:app"}, "Quart (ASGI)",
    ),
    "dash": ({"a.py": "import dash\napp = dash.Dash()\n"}, {"app": "a:app.server"}, "Dash (WSGI)"),
    "django": (DJANGO, {"app": "mysite.wsgi:application"}, "Django (WSGI)"),
    "django with asgi": (
        DJANGO | {"mysite/settings.py": "ASGI_APPLICATION = 'mysite.asgi.application'\n"},
        {"app": "mysite.asgi:application"}, "Django (ASGI)",
    ),
    "procfile": (
        {"a.py": FASTAPI, "b.py": FASTAPI, "Procfile": "web: gunicorn -w 4 -k uvicorn.workers.UvicornWorker b:app\n"},
        {"app": "b:app"}, "FastAPI (ASGI): b:app, in Procfile",
    ),
    "gunicorn": ({"a.py": FASTAPI, "gunicorn.conf.py": "wsgi_app = 'shop.web:make()'\n"}, {"app": "shop.web:make()"},
                 "in gunicorn.conf.py"),
    "gunicorn's default object": (DJANGO | {"Procfile": "web: gunicorn -w 2 --name shop -k=sync -R mysite.wsgi\n"},
                                  {"app": "mysite.wsgi:application"}, "mysite.wsgi:application, in Procfile"),
    "gunicorn's last option": (DJANGO | {"Procfile": "web: exec gunicorn mysite.wsgi --log-file - | tee log\n"},
                               {"app": "mysite.wsgi:application"}, "mysite.wsgi:application, in Procfile"),
    "gunicorn's file without an object": ({"gunicorn.conf.py": "wsgi_app = 'shop.web'\n"},
                                          {"app": "shop.web:application"}, "in gunicorn.conf.py"),
    "a procfile of something else": ({"a.py": FASTAPI, "Procfile": "web: gunicorn -k x\nworker: gunicorn b.c\n"},
                                     {"app": "a:app"}, "in a.py"),
    "pyproject": ({"pyproject.toml": "[tool.fastapi]\nentrypoint = 'api.main:app'\n"}, {"app": "api.main:app"},
                  "in pyproject.toml"),
    "flaskenv": ({".flaskenv": "FLASK_APP=shop.web:create()\n"}, {"app": "shop.web:create()"}, "in .flaskenv"),
    "node": (NODE | {"src/server.js": "server.listen({ fd: 3 })"},
             {"command": ["node", "src/server.js"], "ready": "after 2s"}, "Node.js: src/server.js"),
    "node that opens a port": (NODE | {"src/server.js": "listen(80)"}, {"command": ["node", "src/server.js"]},
                               "note: src/server.js does not seem to take its socket from systemd"),
    "a number without measure": (
        {"a.py": FASTAPI, "pyproject.toml": f"[tool]\nx = {'9' * 5000}\n", "package.json": f"[{'9' * 5000}]"},
        {"app": "a:app"}, "a:app",
    ),
    "broken neighbour": ({"a.py": "def (\n", "b.py": FASTAPI, "tests/app.py": FASTAPI}, {"app": "b:app"}, "b:app"),
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "my-shop" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "my-shop"

    return make


@pytest.mark.parametrize("case", FOUND)
def test_finds(site: Site, project: Project, case: str) -> None:
    """Each kind of application is found by its files, and what is written is valid by parser and schema."""
    files, expected, said = FOUND[case]
    directory = project(files)
    status, out, err = site.run("init", "--stdout", str(directory))
    assert status == 0 and said in err, err
    table = tomllib.loads(out)
    for key, value in expected.items():
        assert table[key] == (value.replace("@", str(directory)) if isinstance(value, str) else value), key
    jsonschema.validate(table, schema())
    assert out.startswith("#:schema file:///usr/share/clusterd/cluster.schema.json\n")


NOT_FOUND = {
    "nothing": ({"readme.md": ""}, [], "no application in '@'", "name it: clusterd init MODULE:OBJECT"),
    "two": (
        {"a.py": FASTAPI, "b.py": FASTAPI}, [], "2 applications in '@': a:app (FastAPI, a.py), b:app (FastAPI, b.py)",
        "say which: clusterd init a:app",
    ),
    "no module": ({"a.py": FASTAPI}, ["c:app"], "no module 'c' in '@'", "give its directory with --directory"),
    "no reference": ({"a.py": FASTAPI}, ["c"], "'c' is neither MODULE:OBJECT nor a directory", "for example"),
    "name": ({"a.py": FASTAPI}, ["--name", "A_b"], "'A_b' cannot be a name", "--name NAME"),
    "address": ({"a.py": FASTAPI}, ["--listen", "localhost:80"], "has 1 problem", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FOUND)
def test_does_not_guess(site: Site, project: Project, case: str) -> None:
    """Nothing, or two that are alike, is told with what to type: exit status 2, and no file."""
    files, more, said, hint = NOT_FOUND[case]
    directory = project(files)
    status, out, err = site.run("init", "-d", str(directory), "-o", str(directory / "x.toml"), *more)
    assert (status, out) == (2, "")
    if case != "address":
        assert said.replace("@", str(directory)) in err and hint in err
    else:
        assert "names are not looked up" in err
    assert not (directory / "x.toml").exists()


def test_named(site: Site, project: Project) -> None:
    """Of two, the one that is named, as MODULE:OBJECT or as a file; what is not known of it is not made up."""
    directory = project({"a.py": FASTAPI, "b.py": FASTAPI, "c.py": "thing = make()\n"})
    assert 'app = "b:app"' in site.run("init", "--stdout", "-d", str(directory), "b:app")[1]
    assert 'app = "a:app"' in site.run("init", "--stdout", "-d", str(directory), "a.py")[1]
    assert 'app = "c:thing"' in site.run("init", "--stdout", "-d", str(directory), "c:thing")[1]


def test_writes_once(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root gets the file where it belongs and the next steps; another try leaves it as it is."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    directory = project({"a.py": FASTAPI})
    status, out, err = site.run("init", str(directory))
    file = site.config / "my-shop.toml"
    assert (status, err) == (0, "") and f"wrote {file}\nnext: apt install" in out
    assert "clusterd check my-shop\n" in out and "clusterd start my-shop\n" in out
    assert load(file).app == "a:app"
    file.write_text("mine")
    status, _, err = site.run("init", str(directory))
    assert (status, file.read_text()) == (2, "mine") and "is left as it is" in err


def test_writes_here(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root gets it in the current directory, to run in the foreground."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    directory = project({"a.py": FASTAPI})
    monkeypatch.chdir(directory)
    status, out, _ = site.run("init")
    assert status == 0 and "clusterd run my-shop.toml" in out and load(directory / "my-shop.toml").app == "a:app"


def test_interpreter(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest virtual environment is the application's; a server that it lacks is named with its command."""
    directory = project(
        {"a.py": FASTAPI, ".venv/pyvenv.cfg": "version_info = 3.12.1\n", "other/pyvenv.cfg": "version = 3.11\n"}
    )
    for name in (".venv", "other"):
        (directory / name / "bin").mkdir()
        (directory / name / "bin" / "python").symlink_to(sys.executable)
    site_packages = directory / ".venv/lib/python3.12/site-packages"
    site_packages.mkdir(parents=True)
    (site_packages / "pip").mkdir()
    out = site.run("init", "-o", str(directory / "x.toml"), str(directory))[1]
    assert f"interpreter: {directory}/.venv/bin/python 3.12" in out
    assert f"next: {directory}/.venv/bin/pip install uvicorn\n" in out
    (site_packages / "uvicorn").mkdir()
    out = site.run("init", "-o", str(directory / "y.toml"), str(directory))[1]
    assert "install" not in out
    (directory / ".venv").rename(directory / "away")
    monkeypatch.setenv("VIRTUAL_ENV", str(directory / "other"))
    assert f'python = "{directory}/other/bin/python"' in site.run("init", "--stdout", str(directory))[1]
    monkeypatch.delenv("VIRTUAL_ENV")
    assert 'python = "/usr/bin/python3"' in site.run("init", "--stdout", str(directory))[1]


def test_closed_directory(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others cannot read the application, it runs as its owner, and the directory that is closed is named."""
    directory = project({"a.py": FASTAPI})
    directory.chmod(0o700)
    monkeypatch.setattr(init.access, "owner", lambda _: "alice")
    out = site.run("init", "--stdout", str(directory))[1]
    assert tomllib.loads(out)["user"] == "alice" and "is closed to others, so it runs as who owns it" in out


def test_free_port(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is one that no other file has and nobody listens on."""
    listener = type("Listener", (), {"port": 8001})()
    monkeypatch.setattr(init.procnet, "listeners", lambda: [listener])
    site.write("hello")
    assert 'listen = "127.0.0.1:8002"' in site.run("init", "--stdout", str(project({"a.py": FASTAPI})))[1]


def test_nothing_is_run(site: Site, project: Project) -> None:
    """The application is read, never imported: looking at it is safe for root."""
    directory = project({"a.py": f"open('{os.devnull}x')\nraise SystemExit\n{FASTAPI}", "sitecustomize.py": "1/0\n"})
    assert 'app = "a:app"' in site.run("init", "--stdout", str(directory))[1]
    assert "a" not in sys.modules


@given(st.text())
def test_derived_names(text: str) -> None:
    """A derived name is one, or there is none."""
    assert names.derived(text) == "" or names.is_name(names.derived(text))


@pytest.mark.parametrize(
    ("path", "name"),
    [("/srv/My_Shop.2/app", "my-shop-2"), ("/srv/shop/current", "shop"), ("/", "app"), ("/srv/42", "srv")],
)
def test_name_by_directory(path: str, name: str) -> None:
    """A directory whose name says nothing leaves it to the one above."""
    assert re.fullmatch(names.NAME, init.guess(Path(path))) and init.guess(Path(path)) == name
