"""The likeliest mistakes of an application, each deployed over one that serves; docs/mistakes.md has their messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests import mistakes
from tests.run.foreground import APP, Foreground

SECTION = "The application"
FACTORY = "    async def made(scope, receive, send): ...\n    return made\n"
STARTUP = "import asyncio\nasync def app(scope, receive, send):\n    await receive()\n"
COUNT = APP + "\ndef count_users(): ...\n"
ANSWERS = '    if scope["path"] == "/healthz":\n        '

SOURCES: dict[str, str] = {
    "A syntax error": "def app(:\n",
    "Tabs among spaces": "def made():\n    if True:\n\tpass\n",
    "A package that is not installed": "import flask_loginn\n",
    "A name that a package does not have": "from json import lods\n",
    "Two modules that import each other": "import models\ndb = 1\n",
    "A variable that is not set": "import os\nURL = os.environ['DATABASE_URL']\n",
    "A file that is looked for in another directory": "CONFIG = open('config.json')\n",
    "exit() at import": "raise SystemExit('DATABASE_URL is not set')\n",
    "A process that ends at import": "import os\nos._exit(3)\n",
    "A crash at import": "import os\nos.kill(os.getpid(), 11)\n",
    "An import that waits": "import threading\nthreading.Event().wait()\n",
    "A question at import": "PASSWORD = input()\n",
    "An object of another name": "async def application(scope, receive, send): ...\n",
    "An object that is no application": "app = 'hello'\n",
    "A module for an application": "import json as app\n",
    "A factory without its brackets": "def app():\n" + FACTORY,
    "A factory that is asynchronous": "async def app():\n" + FACTORY,
    "An application of ASGI 2": "class app:\n    def __init__(self, scope): ...\n    async def __call__(self): ...\n",
    "A database that is not there at startup": STARTUP + "    raise ConnectionRefusedError('no database')\n",
    "A startup that waits": STARTUP + "    await asyncio.Event().wait()\n",
}
SETTINGS: dict[str, tuple[str, str, str]] = {
    "A module of another name": ("hello:app", "helo:app", APP),
    "An engine of the other kind": ("app =", 'engine = "waitress"\napp =', APP),
    "An engine that is not installed": ("app =", 'engine = "granian"\napp =', APP),
    "A factory that is none": ("hello:app", "hello:GREETING()", APP),
    "A health path that the application does not have": (
        "[reload]",
        '[health]\npath = "/healthz"\n[reload]',
        APP.replace('"status": 200', '"status": 404 if scope["path"] == "/healthz" else 200'),
    ),
    "A health path that fails": (
        "[reload]",
        '[health]\npath = "/healthz"\n[reload]',
        APP.replace("    body =", f'{ANSWERS}raise KeyError("db")\n    body ='),
    ),
    "A health path that does not answer": (
        "[reload]",
        '[health]\npath = "/healthz"\n[reload]',
        APP.replace("    body =", f"{ANSWERS}await asyncio.Event().wait()\n    body ="),
    ),
    "A task whose function has another name": ("[reload]", '[task.users]\ncall = "hello:count"\n[reload]', COUNT),
    "A task whose function wants arguments": ("[reload]", '[task.users]\ncall = "hello:app"\n[reload]', APP),
    "An environment file that is not there": ("app =", 'environment-file = "/nonexistent/hello.env"\napp =', APP),
}
COMMANDS: dict[str, list[str]] = {
    "A command that is not installed": ["pyton3", "serve.py"],
    "A command and its arguments in one": ["python3 serve.py"],
    "A script that is not executable": ["./serve.sh"],
    "A script without its first line": ["./plain.sh"],
    "A script of an interpreter that is not there": ["./node.sh"],
    "A script with the line ends of Windows": ["./windows.sh"],
    "A command that goes into the background": ["/bin/true"],
    "A command that opens its port itself": [
        "/usr/bin/python3",
        "-c",
        "import socket; socket.create_server(('127.0.0.1', PORT))",
    ],
    "A command that does not say when it is ready": ["/bin/sleep", "100"],
}
MISTAKES = [*SOURCES, *SETTINGS, *COMMANDS]
LATE = {
    "An import that waits",
    "A startup that waits",
    "A health path that does not answer",
    "A command that does not say when it is ready",
}
"""Each of these takes [reload] ready-timeout, which has to be long enough for what comes before on a busy machine:
twice what the page has."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Foreground]:
    """An application that serves, and the files that some of the mistakes need."""
    with Foreground() as run:
        run.runtime = run.directory / "hello"
        run.start()
        (run.directory / "models.py").write_text("from hello import db\n")
        for name, text, mode in (
            ("serve.sh", "#!/bin/sh\n", 0o644),
            ("plain.sh", "exec node\n", 0o755),
            ("windows.sh", "#!/bin/sh\r\nexec node server.js\r\n", 0o755),
            ("node.sh", "#!/nonexistent/node\n", 0o755),
        ):
            (run.directory / name).write_text(text)
            (run.directory / name).chmod(mode)
        yield run


def make(run: Foreground, title: str) -> None:
    """Write the mistake's configuration and code."""
    file = run.configure()
    text = file.read_text() + '[env]\nPATH = "/usr/bin:/bin"\n'
    if title in COMMANDS:
        command = [word.replace("PORT", str(run.port)) for word in COMMANDS[title]]
        text = text.replace('app = "hello:app"', f"command = {json.dumps(command)}")
        text = text.replace(f'python = "{sys.executable}"\n', "")
    old, new, source = SETTINGS.get(title, ("", "", SOURCES.get(title, APP)))
    text = text.replace(old, new, 1)
    if "not installed" in title and title in SETTINGS:
        text = text.replace(sys.executable, "/usr/bin/python3")
    if title in LATE:
        text = text.replace('ready-timeout = "60s"', 'ready-timeout = "20s"')
    file.write_text(text)
    (run.directory / "hello.py").write_text(source)


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.proof if title in LATE else ()) for title in MISTAKES]
)
def test_message(serving: Foreground, title: str) -> None:
    """Each is refused by the reload with exactly what the page has; the workers of before serve on."""
    before = serving.pids()
    make(serving, title)
    done = serving.clusterd("reload")
    assert done.returncode == 1 and not done.stdout
    said = done.stderr[done.stderr.index("clusterd: hello: ") :]
    for ours, theirs in (
        (str(serving.directory / "app.toml"), "/etc/clusterd/hello.toml"),
        (str(serving.directory), "/srv/hello"),
        (sys.executable, "/srv/hello/venv/bin/python"),
    ):
        said = said.replace(ours, theirs)
    said = mistakes.unnumbered(said).replace(" (core dumped)", "").replace("within 20 s", "within 10 s")
    assert said == mistakes.sections()[SECTION].get(title)
    assert serving.pids() == before


def test_page_is_whole() -> None:
    """The page has these, in this order, and no other."""
    assert list(mistakes.sections()[SECTION]) == MISTAKES
