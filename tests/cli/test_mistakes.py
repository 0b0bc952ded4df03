"""The likeliest mistakes in a file, its name or a command, made for real; docs/mistakes.md has what each prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import mistakes

from .conftest import Site

GOOD = 'app = "hello:app"\nlisten = "8000"\n'

FILES: dict[str, str | bytes] = {
    "A key with a typing error": GOOD + "workrs = 2\n",
    "A table with a typing error": GOOD + '[relaod]\nsoak = "2s"\n',
    "No application": 'listen = "8000"\n',
    "No address": 'app = "hello:app"\n',
    "An application without its object": 'app = "hello"\nlisten = "8000"\n',
    "An application as a path": 'app = "src/hello.py:app"\nlisten = "8000"\n',
    "Both app and command": GOOD + 'command = ["node", "server.js"]\n',
    "A command as one string": 'command = "node server.js"\nlisten = "8000"\n',
    "A port that is none": 'app = "hello:app"\nlisten = "80000"\n',
    "A host by its name": 'app = "hello:app"\nlisten = "localhost:8000"\n',
    "An IPv6 address without brackets": 'app = "hello:app"\nlisten = "::1:8000"\n',
    "A UNIX socket as gunicorn writes it": 'app = "hello:app"\nlisten = "unix:/run/hello.sock"\n',
    "A UNIX socket in the service's own directory": 'app = "hello:app"\nlisten = "/run/clusterd/hello/http.sock"\n',
    "Two addresses that overlap": 'app = "hello:app"\nlisten = ["8000", "127.0.0.1:8000"]\n',
    "A time without its unit": GOOD + "[reload]\nsoak = 2\n",
    "A time with a unit that is none": GOOD + '[reload]\nsoak = "2 parsecs"\n',
    "No workers": GOOD + "workers = 0\n",
    "Fewer than no workers": GOOD + "workers = -1\n",
    "A number as a word": GOOD + 'workers = "four"\n',
    "A switch in quotes": GOOD + '[log]\naccess = "true"\n',
    "A relative directory": GOOD + 'directory = "hello"\n',
    "A directory by way of '..'": GOOD + 'directory = "/srv/../hello"\n',
    "The account root": GOOD + 'user = "root"\n',
    "An account by its number": GOOD + "user = 1000\n",
    "An engine that there is none of": GOOD + 'engine = "gunicorn"\n',
    "A variable that is no string": GOOD + "[env]\nDEBUG = 1\n",
    "A variable that clusterd sets itself": GOOD + '[env]\nLISTEN_FDS = "3"\n',
    "A health path without its slash": GOOD + '[health]\npath = "healthz"\n',
    "An environment file by a pattern": GOOD + 'environment-file = "/etc/hello/*.env"\n',
    "A trusted proxy by its name": GOOD + '[http]\nforwarded-allow-ips = ["proxy.example"]\n',
    "A key given twice": GOOD + 'listen = "9000"\n',
    "A task without its function": GOOD + '[task.users]\nevery = "10s"\n',
    "A task by cron's times": GOOD + '[task.users]\ncall = "hello:count"\ncalendar = "0 4 * * 1-5"\n',
    "A task without its name": GOOD + '[task]\ncall = "hello:count"\nevery = "10s"\n',
    "A task of a command": 'command = ["x"]\nlisten = "8000"\n[task.users]\ncall = "x:count"\nevery = "10s"\n',
    "An INI file": "[app]\nmodule = hello:app\n",
    "A YAML file": "app: hello:app\nlisten: 8000\n",
    "A quote left open": 'app = "hello:app\nlisten = "8000"\n',
    "An empty file": "",
    "A file in UTF-16": GOOD.encode("utf-16"),
    "A byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
}
NAMES = {
    "A file without .toml": "hello.conf",
    "A name with a capital": "Hello.toml",
    "A name with an underscore": "my_app.toml",
    "A name that is too long": "a-name-that-is-much-too-long.toml",
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "Another file with the same port": ("check", "other"),
    "A name that no file has": ("status", "helo"),
    "run without an application": ("run",),
    "run with both": ("run", "hello:app", "--command", "node server.js"),
    "run with an address by its name": ("run", "hello:app", "--listen", "localhost:8000"),
    "reload of what does not run": ("reload", "hello"),
    "rollback of what does not run": ("rollback", "hello"),
    "status of what does not run": ("status", "hello"),
    "A profile that the file does not have": ("check", "hello", "--profile", "production"),
    "A file that is not there": ("check", "/nonexistent/hello.toml"),
    "import-gunicorn of a file without the application": ("import-gunicorn", "/srv/hello/gunicorn.conf.py"),
}
SECTIONS = {"The file": [*FILES], "The name of the file": [*NAMES], "The command line": [*COMMANDS]}
MISTAKES = [(section, title) for section, titles in SECTIONS.items() for title in titles]


def message(site: Site, title: str) -> str:
    """What is printed, with the places that it would name on a machine."""
    if title in COMMANDS:
        site.write("hello", GOOD)
        site.write("other", GOOD)
        (site.root / "gunicorn.conf.py").write_text("workers = 4\n")
        words = [word.replace("/srv/hello", str(site.root)) for word in COMMANDS[title]]
        status, out, err = site.run(*words)
    else:
        text = FILES.get(title, GOOD)
        path = site.config / NAMES.get(title, "hello.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        status, out, err = site.run("check", str(path))
    assert status != 0 and not out, title
    for ours, theirs in ((site.config, "/etc/clusterd"), (site.runtime, "/run/clusterd"), (site.root, "/srv/hello")):
        err = err.replace(str(ours), theirs)
    return "\n".join(line for line in err.splitlines() if not line.startswith("warning: ")) + "\n"


@pytest.mark.parametrize(("section", "title"), MISTAKES)
def test_message(site: Site, section: str, title: str) -> None:
    """Each mistake is refused, nothing on standard output, with exactly the message that the page has."""
    assert message(site, title) == mistakes.sections()[section].get(title)


def test_page_is_whole() -> None:
    """The page has these mistakes, in this order, and no other; fifty at least."""
    assert {section: list(mistakes.sections()[section]) for section in SECTIONS} == SECTIONS
    assert len(MISTAKES) >= 50


@pytest.mark.parametrize(("section", "title"), [(s, t) for s, t in MISTAKES if t not in COMMANDS])
def test_message_says_where_and_what(section: str, title: str) -> None:
    """Each message about a file says which, what was found and what was expected."""
    first = mistakes.sections()[section][title].splitlines()[0]
    name = NAMES.get(title, "hello.toml")
    assert re.match(rf"error: /etc/clusterd/{re.escape(name)}: .*found .+, expected .+", first), Path(name)
