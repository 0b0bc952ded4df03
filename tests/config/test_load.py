"""From a file to Settings, or to all that is wrong with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clusterd.config.addresses import parse
from clusterd.config.cores import cores, default_slots
from clusterd.config.load import Invalid, from_run, load, load_all, load_among, surroundings
from clusterd.config.places import SYSTEM
from clusterd.config.settings import Http, Reload, Settings

GOOD = 'app = "hello:app"\nlisten = "127.0.0.1:8000"\n'


def write(directory: Path, text: str | bytes, name: str = "hello") -> Path:
    path = directory / f"{name}.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(directory: Path, text: str | bytes) -> list[str]:
    """What load says of the file, without the file's name."""
    path = write(directory, text)
    with pytest.raises(Invalid) as e:
        load(path)
    lines = str(e.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    return [line.removeprefix(str(path)).lstrip(": ") for line in lines]


def test_defaults(tmp_path: Path) -> None:
    """Two keys make an application; all others have their default, and "auto" is what it stands for here."""
    settings = load(write(tmp_path, GOOD))
    assert settings == Settings(
        name="hello", file=str(tmp_path / "hello.toml"), app="hello:app", directory="/srv/hello",
        listen=(parse("127.0.0.1:8000"),), workers=cores(), slots=default_slots(),
    )  # fmt: skip


def test_everything(tmp_path: Path) -> None:
    """Every key arrives where it belongs, times in seconds."""
    settings = load(
        write(
            tmp_path,
            """
            app = "pkg.mod:make.app()"
            engine = "uvicorn"
            directory = "/srv//app/./x/"
            python = "/srv/venv/bin/python"
            user = "www-data"
            group = "33"
            listen = ["8000", { path = "/run/x.sock", mode = "0600" }]
            slots = 4
            workers = 8
            balance = "hash"
            environment-file = "/etc/clusterd/x.env"
            [http]
            keep-alive = "75s"
            forwarded-allow-ips = "10.0.0.1,10.0.0.2"
            root-path = "/api"
            max-connections = 100
            [reload]
            surge = 2
            soak = "500ms"
            watch = "0"
            ready-timeout = "2min"
            drain-timeout = "1min"
            preload = false
            [stop]
            drain-timeout = "10s"
            [restart]
            delay = "1s"
            max-delay = "1min"
            [health]
            path = "/healthz?full=1"
            [env]
            A = "1"
            [log]
            access = true
            level = "debug"
            """,
        )
    )
    assert (settings.app, settings.engine, settings.directory) == ("pkg.mod:make.app()", "uvicorn", "/srv/app/x")
    assert (settings.user, settings.group, settings.slots, settings.workers) == ("www-data", "33", 4, 8)
    assert [a.text() for a in settings.listen] == ["[::]:8000", "/run/x.sock"]
    assert settings.http == Http(75.0, ("10.0.0.1", "10.0.0.2"), "/api", 100)
    # linger follows keep-alive, and stops where the worker is killed
    assert settings.reload == Reload(2, 0.5, 0.0, 120.0, 60.0, 60.0, "never")
    assert (settings.stop.drain_timeout, settings.restart.delay, settings.restart.max_delay) == (10.0, 1.0, 60.0)
    assert (settings.health.path, settings.env, settings.log.access) == ("/healthz?full=1", {"A": "1"}, True)
    assert (settings.balance, settings.environment_file) == ("hash", "/etc/clusterd/x.env")


def test_command(tmp_path: Path) -> None:
    """A command has no interpreter of its own, and is ready when it says so or after a time."""
    settings = load(write(tmp_path, 'command = ["node", "server.js"]\nready = "after 2s"\nlisten = 80\n'))
    assert (settings.app, settings.command, settings.python, settings.ready) == (None, ("node", "server.js"), None, 2.0)


TABLE = [
    ("", "app: found neither 'app' nor 'command', expected one of them; hint: for example app = \"hello:app\""),
    (
        'app = "a:b"\ncommand = ["x"]',
        "command: found both 'app' and 'command', expected one of them; hint: an application is one or the other",
    ),
    ('app = "a:b"', 'listen: found nothing, expected an address; hint: for example listen = "127.0.0.1:8000"'),
    (
        'app = "hello"',
        'app: found "hello", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: name the object in the module too: '
        '"hello:app"',
    ),
    (
        'app = "my/hello.py:app"',
        'app: found "my/hello.py:app", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: a module\'s name has no '
        'slashes and no ".py": "my.hello:app"',
    ),
    (
        'app = "hello.py"',
        'app: found "hello.py", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: name the object in the module '
        'too: "hello:app"',
    ),
    (
        'app = "app/hello.py"',
        'app: found "app/hello.py", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: name the object in the '
        'module too: "app.hello:app"',
    ),
    (
        'app = "/srv/hello.py"',
        'app: found "/srv/hello.py", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: name the object in the '
        "module too",
    ),
    (
        'app = "hello.py:make()"',
        'app: found "hello.py:make()", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: a module\'s name has no '
        'slashes and no ".py": "hello:make()"',
    ),
    (
        'app = "my-app:app"',
        'app: found "my-app:app", expected "MODULE:OBJECT" or "MODULE:FACTORY()"; hint: a module\'s name is of '
        "letters, digits and '_', as it stands behind 'import'",
    ),
    (
        'command = ""',
        'command: found "", expected a list of strings, the program and its arguments; hint: no shell reads it, so '
        "every word stands for itself",
    ),
    (
        "command = 'sh -c \"a b\"'",
        'command: found "sh -c \\"a b\\"", expected a list of strings, the program and its arguments; hint: no shell '
        'reads it, so every word stands for itself: ["sh", "-c", "\\"a", "b\\""]',
    ),
    ('workers = "0"', 'workers: found "0", expected "auto" or a whole number from 1 to 1024'),
    ("user = -5", "user: found -5, expected the name of an account"),
    ("[http]\nkeep-alive = -5", "http.keep-alive: found -5, expected a time from 0s to 1h; hint: a time has its unit"),
    (
        "[http]\nkeep-alive = inf",
        "http.keep-alive: found inf, expected a time from 0s to 1h; hint: a time has its unit",
    ),
    (
        "[http]\nkeep-alive = 7200",
        "http.keep-alive: found 7200, expected a time from 0s to 1h; hint: a time has its unit",
    ),
    (
        "[health]\nwatchdog = 0",
        "health.watchdog: found 0, expected a time from 2s to 1d, or false; hint: a time has its unit",
    ),
    (
        "[http]\nmax-body-size = 1.5",
        "http.max-body-size: found 1.5, expected a size from 1 to 1T; hint: a size stands in quotes, with K, M or G "
        "for a unit, or as bytes",
    ),
    (
        "[http]\nmax-body-size = -1",
        "http.max-body-size: found -1, expected a size from 1 to 1T; hint: a size stands in quotes, with K, M or G for "
        "a unit, or as bytes",
    ),
    (
        '[task.users]\ncall = "a:b"\ncalendar = "10 parsecs"',
        'task.users.calendar: found "10 parsecs", expected a time such as "Mon..Fri 04:00"; hint: that is a span of '
        "time",
    ),
    (
        'command = "node server.js"',
        'command: found "node server.js", expected a list of strings, the program and its arguments; hint: no shell '
        'reads it, so every word stands for itself: ["node", "server.js"]',
    ),
    ("command = []", "command: found [], expected a list of strings, the program and its arguments"),
    ("lissten = 80", "lissten: found an unknown key, expected a key of cluster.toml(5); hint: did you mean 'listen'?"),
    (
        "keep-alive = 5",
        "keep-alive: found an unknown key, expected a key of cluster.toml(5); hint: did you mean 'http.keep-alive'?",
    ),
    (
        'drain_timeout = "5s"',
        "drain_timeout: found an unknown key, expected a key of cluster.toml(5); hint: did you mean "
        "'reload.drain-timeout' or 'stop.drain-timeout'?",
    ),
    (
        "[reload]\nsorge = 1",
        "reload.sorge: found an unknown key, expected a key of [reload]; hint: did you mean 'reload.surge'?",
    ),
    ("[frobnicate]\nx = 1", "frobnicate: found an unknown key, expected a key of cluster.toml(5)"),
    ("reload = 5", "reload: found 5, expected a table: [reload]"),
    (
        "[recycle]\nmax-requests-jitter = 5",
        "recycle.max-requests-jitter: found 5, expected recycle.max-requests beside it; hint: it is added to that",
    ),
    (
        '[health]\nwatchdog = "1s"',
        'health.watchdog: found "1s", expected a time from 2s to 1d, or false',
    ),
    ("workers = 0", 'workers: found 0, expected "auto" or a whole number from 1 to 1024'),
    (
        'workers = "4"',
        'workers: found "4", expected "auto" or a whole number from 1 to 1024; hint: a number stands without quotes',
    ),
    ("workers = true", 'workers: found true, expected "auto" or a whole number from 1 to 1024'),
    ("slots = 257", "slots: found 257, expected a whole number from 1 to 256"),
    (
        "[reload]\nsoak = 2",
        'reload.soak: found 2, expected a time from 0s to 1h; hint: a time has its unit: "2s"',
    ),
    (
        '[reload]\nsoak = "2 parsecs"',
        "reload.soak: found \"2 parsecs\", expected a time from 0s to 1h; hint: 'parsecs' is no unit of time: ms, s, "
        "min, h and d are",
    ),
    ('[reload]\nsoak = "2h"', 'reload.soak: found "2h", expected a time from 0s to 1h'),
    (
        "[reload]\npreload = true",
        'reload.preload: found true, expected "force" or false; hint: leave it out to let clusterd look',
    ),
    (
        '[reload]\nlinger = "31s"',
        "reload.linger: found 31 s, expected at most reload.drain-timeout, 30 s; hint: a worker is killed at "
        "drain-timeout, lingering or not",
    ),
    (
        '[restart]\ndelay = "1min"',
        "restart.max-delay: found 30 s, expected at least restart.delay, 60 s",
    ),
    ('balance = "robin"', 'balance: found "robin", expected "auto", "random" or "hash"'),
    (
        'user = "root"',
        'user: found "root", expected the name of an account; hint: an application never runs as root: leave \'user\' '
        "out for a dynamic user of its own",
    ),
    (
        'user = "65535"',
        'user: found "65535", expected the name of an account; hint: a number is at most 4294967294, and not 65535: '
        "systemd takes no other",
    ),
    (
        'group = "4294967295"',
        'group: found "4294967295", expected the name of a group; hint: '
        "a number is at most 4294967294, and not 65535: systemd takes no other",
    ),
    ("user = 33", "user: found 33, expected the name of an account; hint: a number stands in quotes here"),
    (
        'directory = "app"',
        "directory: found \"app\", expected an absolute path; hint: it begins with '/': nothing here has a directory "
        "that it could be relative to",
    ),
    (
        'environment-file = "/etc/*.env"',
        'environment-file: found "/etc/*.env", expected an absolute path; hint: systemd, which reads it, takes a '
        "pattern too: no spaces, backslashes, '*', '?' and '['",
    ),
    (
        '[health]\npath = "healthz"',
        "health.path: found \"healthz\", expected a path such as \"/healthz\"; hint: it begins with '/' and is ASCII "
        "without spaces",
    ),
    ('[log]\naccess = "true"', 'log.access: found "true", expected true or false; hint: without quotes'),
    ("[env]\nTOKEN = 5", "env.TOKEN: found an integer, expected a string; hint: put the value in quotes"),
    (
        '[env]\nLISTEN_FDS = "3"',
        "env.LISTEN_FDS: found a name that clusterd or systemd sets itself, expected another name",
    ),
    (
        "[env]\nworkers = 4",
        "env.workers: found an integer, expected a string; hint: 'workers' stands below [env], where it is a "
        "variable: a key belongs above all tables",
    ),
    (
        '[env]\nenvironment-file = "/x"',
        "env.environment-file: found that name, expected letters, digits and '_'; hint: 'environment-file' stands "
        "below [env], where it is a variable: a key belongs above all tables",
    ),
    (
        '[env]\nlisten = "8000"\ncommand = "x"',
        "app: found neither 'app' nor 'command', expected one of them; hint: 'command' stands below [env], where it is "
        "a variable: a key belongs above all tables",
    ),
    (
        '[env]\nlisten = "8000"',
        "listen: found nothing, expected an address; hint: 'listen' stands below [env], where it is a variable: a "
        "key belongs above all tables",
    ),
    ("[env]\n\"a b\" = 'x'", "env.a b: found that name, expected letters, digits and '_'"),
    (
        'listen = ["8000", "http"]',
        'listen[1]: found "http", expected an address; hint: write a port ("8000"), "ADDRESS:PORT", "[IPV6]:PORT" or '
        "the absolute path of a UNIX socket",
    ),
    (
        'listen = ["8000", "127.0.0.1:8000"]',
        "listen[1]: found \"127.0.0.1:8000\", expected an address of its own; hint: it overlaps '[::]:8000': leave one "
        "of them out",
    ),
    (
        'listen = ["/a", {path = "/b", mode = "0600"}]',
        'listen: found ["/a", { path = "/b", mode = "0600" }], expected an address or a list of addresses; hint: a '
        "systemd unit has one SocketMode=: give all UNIX sockets the same mode, user and group",
    ),
    ("listen = []", "listen: found [], expected an address or a list of addresses; hint: give 1 to 16 of them"),
    (
        'app = "a:b"\nready = "notify"',
        "ready: found a key that only 'command' has, expected a key that 'app' has",
    ),
    (
        'command = ["x"]\npython = "/x"',
        "python: found a key that only 'app' has, expected a key that 'command' has; hint: name the interpreter in the "
        "command",
    ),
    (
        'command = ["x"]\n[http]\nkeep-alive = "5s"',
        "http.keep-alive: found a key that only 'app' has, expected a key that 'command' has; hint: the program of a "
        "command serves HTTP itself: configure it there",
    ),
    (
        'app = "a:b"\nengine = "waitress"\n[log]\naccess = true',
        "log.access: found true, which waitress cannot do: it writes no access log, expected what waitress can; hint: "
        "let the application log requests (paste.translogger, for one), or the proxy in front",
    ),
    (
        'app = "a:b"\nengine = "uvicorn"\n[http]\nthreads = 8',
        "http.threads: found 8, which uvicorn cannot do: an ASGI application has no request threads, it makes its own, "
        "expected what uvicorn can; hint: leave it out; a framework's pool for blocking functions is set in the "
        "application",
    ),
    (
        'app = "a:b"\nengine = "uvicorn"\n[http]\nmax-header-size = "64K"',
        'http.max-header-size: found "64K", which uvicorn cannot do: its fast parser, httptools, has no limit to set, '
        'expected what uvicorn can; hint: parser = "h11", which has one',
    ),
    (
        '[http]\nmax-header-size = 65536',
        'http.max-header-size: found 65536, expected a size from 1K to 16M; hint: a size stands in quotes, with K, M '
        'or G for a unit, or as bytes: "65536"',
    ),
    ('[http]\nmax-header-size = "1G"', 'http.max-header-size: found "1G", expected a size from 1K to 16M'),
    (
        '[http]\nforwarded-allow-ips = ["10.0.0.1/8"]',
        'http.forwarded-allow-ips[0]: found "10.0.0.1/8", expected an IP address, a network, "unix" or "*"; hint: the '
        'network it is in is "10.0.0.0/8"',
    ),
    (
        '[http]\nforwarded-allow-ips = "proxy.example"',
        'http.forwarded-allow-ips: found "proxy.example", expected an IP address, a network, "unix" or "*"; hint: '
        "names are not looked up: give the address",
    ),
    (
        '[http]\nforwarded-allow-ips = ["/run/nginx.sock"]',
        'http.forwarded-allow-ips[0]: found "/run/nginx.sock", expected an IP address, a network, "unix" or "*"; hint: '
        'whoever may connect to a UNIX socket is "unix"',
    ),
    (
        '[http]\nforwarded-allow-ips = ["*", "::1"]',
        'http.forwarded-allow-ips: found ["*", "::1"], expected a list of strings, each an IP address, a network, '
        '"unix" or "*"; hint: "*" is everybody already: leave the others out',
    ),
    (
        'listen = ["1", "2", "3", "4", "5"]\nslots = 256',
        "slots: found 256 slots for 5 addresses, expected at most 1024 sockets; hint: fewer slots or fewer addresses",
    ),
    (
        'listen = "/a"\nbalance = "hash"',
        'balance: found "hash" with UNIX sockets only, expected "auto"; hint: all workers share a UNIX socket, and the '
        "first that is free takes a connection",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TABLE, ids=[text or "empty" for text, _ in TABLE])
def test_messages(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake is told with its key, what was found and expected, and where it helps, what to do."""
    assert message in problems(tmp_path, text)


def test_all_at_once(tmp_path: Path) -> None:
    """Every problem of a file is told, also several of one key: nobody mends a file one error at a time."""
    text = 'workers = 0\nlisten = ["x", "0"]\nbad = 1\n[env]\nA = 1\nB = 2\n[log]\nlevel = "loud"\n'
    found = [line.split(": ")[0] for line in problems(tmp_path, text)]
    assert found == ["workers", "listen[0]", "listen[1]", "bad", "env.A", "env.B", "log.level", "app"]


WHOLE = """
python = "/usr/bin/python3"
listen = "8000"
[http]
keep-alive = "5s"
[log]
access = true
[task.users]
call = "a:b"
"""


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('app = "hello"' + WHOLE, ["app"]),
        ('app = "hello"\nready = "notify"' + WHOLE, ["app", "ready"]),
        ('command = []\nready = "notify"\nlisten = "8000"\n', ["command"]),
        (
            'command = []\nready = "notify"' + WHOLE,
            ["command", "python", "http.keep-alive", "log.access", "task.users"],
        ),
        ('app = "hello"\ncommand = ["x"]\nready = "notify"' + WHOLE, ["app", "command"]),
    ],
)
def test_one_mistake_is_one_problem(tmp_path: Path, text: str, keys: list[str]) -> None:
    """Which keys there may be is decided by which of the two stands in the file, right or wrong."""
    assert [line.split(": ")[0] for line in problems(tmp_path, text)] == keys


def test_secrets_stay(tmp_path: Path) -> None:
    """A value of [env] is in no message."""
    assert "hunter2" not in "".join(
        problems(tmp_path, '[env]\nA = ["hunter2"]\n"a b" = "hunter2"\nLISTEN_X = "hunter2"')
    )
    assert "hunter2" not in "".join(problems(tmp_path, 'env = "hunter2"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'app = "a:b"\nlisten 80',
            "line 2: found Expected '=' after a key in a key/value pair at column 8, expected TOML; hint: "
            'a line is KEY = VALUE, such as app = "hello:app"; [TABLE] begins a table',
        ),
        ('app = "a:b', "line 1: found Unterminated string, expected TOML"),
        (
            "a = 1\na = 2",
            "line 2: found Cannot overwrite a value, expected TOML; hint: the key is there already: give it once",
        ),
        (
            b"a = 1\n# \xff",
            "line 2: found a byte that is not UTF-8, expected TOML, which is UTF-8; "
            "hint: save it as UTF-8 in the editor",
        ),
        ("#" * (256 << 10) + "\n", "found more than 262144 bytes, expected a TOML file of at most 262144 bytes"),
        ("a = " + "[" * 5000, "found values nested too deep, expected TOML"),
        (
            GOOD + "[http]\nkeep-alive = 5s # short\n",
            "line 4: found Expected newline or end of document after a statement at column 15, expected TOML; hint: a "
            'text stands in quotes: keep-alive = "5s"',
        ),
        (
            GOOD + "[profile.large.limits]\r\nmemory = 512M\r\n",
            "line 4: found Expected newline or end of document after a statement at column 13, expected TOML; hint: a "
            'text stands in quotes: memory = "512M"',
        ),
        (
            'app = "a:b"\nlisten = 127.0.0.1:8000',
            "line 2: found Expected newline or end of document after a statement at column 15, expected TOML; hint: a "
            'text stands in quotes: listen = "127.0.0.1:8000"',
        ),
        (
            "directory = /srv/x\n",
            "line 1: found Invalid value at column 13, expected TOML; hint: a text stands in quotes: "
            'directory = "/srv/x"',
        ),
        (
            "workers = 08\n",
            "line 1: found Expected newline or end of document after a statement at column 12, expected TOML",
        ),
        ("a = 1\nb = -" + "9" * 4400, "line 2: found a whole number of more than 4300 digits, expected TOML"),
    ],
)
def test_syntax(tmp_path: Path, text: str | bytes, message: str) -> None:
    """What is no TOML is told with its line, and nothing in a file can exhaust the reader."""
    assert problems(tmp_path, text) == [message]


HUGE = "0x" + "F" * 5000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"workers = {HUGE}", "workers: found an integer of 20000 bits, expected"),
        (f"listen = {HUGE}", "listen: found an integer of 20000 bits, expected an address; hint: a port is a number"),
        (f"listen = [{{ address = {HUGE} }}]", "listen[0]: found { address = an integer of 20000 bits }, expected"),
        (f"[reload]\nsoak = {HUGE}", "reload.soak: found an integer of 20000 bits, expected a time"),
        (f"[http]\nmax-body-size = {HUGE}", "http.max-body-size: found an integer of 20000 bits, expected a size"),
        (f"[sandbox]\nwrite = [{HUGE}]", "sandbox.write: found [an integer of 20000 bits], expected"),
        (f"[limits]\nmemory = {HUGE}", "limits.memory: found an integer of 20000 bits, expected"),
        ("workers" + ".a" * 2000 + " = 1", "workers: found { a = { a = { a = "),
        ("workers = " + "[" * 300 + "]" * 300, "workers: found [[["),
    ],
    ids=lambda text: text[:30],
)
def test_values_without_measure(tmp_path: Path, text: str, message: str) -> None:
    """A number that Python does not write out, and tables below tables without end, are problems like others."""
    (found,) = [line for line in problems(tmp_path, text) if line.startswith(message)]
    assert len(found) < 300


@pytest.mark.parametrize("value", ["9" * 4400, HUGE, "{ a" + ".a" * 2000 + " = 1 }"], ids=["decimal", "hex", "deep"])
def test_a_neighbour_without_measure(tmp_path: Path, value: str) -> None:
    """Whatever a file has in it, its neighbours are loaded."""
    write(tmp_path, f"workers = {value}\n", "beside")
    assert load_among(write(tmp_path, GOOD), serving=()).name == "hello"


def test_no_file(tmp_path: Path) -> None:
    """No file, a directory, a FIFO: told, and nothing waits."""
    with pytest.raises(Invalid, match="found No such file or directory, expected a readable TOML file"):
        load(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(Invalid, match="found something that is no file, expected a TOML file"):
        load(tmp_path / "dir.toml")
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(Invalid, match="found something that is no file, expected a TOML file"):
        load(tmp_path / "fifo.toml")


@pytest.mark.parametrize("name", ["Hello.toml", "hello.conf", "a_b.toml", ".toml"])
def test_file_names(tmp_path: Path, name: str) -> None:
    """The file's name is the instance's."""
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(Invalid, match=r"expected NAME\.toml, NAME being"):
        load(tmp_path / name)


def test_overlap_between_files(tmp_path: Path) -> None:
    """Of two files with one address the one that does not run is refused, naming both; others are as they are."""
    for name, listen in {"a": "8000", "b": "127.0.0.1:8000", "c": "8001"}.items():
        write(tmp_path, f'app = "x:y"\nlisten = "{listen}"\n', name)
    loaded = load_all(tmp_path, serving={"b"})
    assert list(loaded.settings) == ["b", "c"]
    assert [str(p) for p in loaded.problems["a"]] == [
        f"{tmp_path}/a.toml: listen: found '[::]:8000', expected an address no other file has; hint: 'b' listens on "
        f"'127.0.0.1:8000' ({tmp_path}/b.toml): change one of the two files"
    ]
    assert list(load_all(tmp_path, serving=()).settings) == ["a", "c"]
    assert load_among(tmp_path / "a.toml", serving=()).name == "a"
    with pytest.raises(Invalid, match="'a' listens on"):
        load_among(tmp_path / "b.toml", serving=())


def test_bad_neighbour(tmp_path: Path) -> None:
    """A broken file keeps nobody from loading another."""
    write(tmp_path, GOOD)
    write(tmp_path, "broken", "broken")
    write(tmp_path, "not looked at", "Not_a_name")
    loaded = load_all(tmp_path, serving=())
    assert (list(loaded.settings), list(loaded.problems)) == (["hello"], ["broken"])
    assert load_among(tmp_path / "hello.toml").name == "hello"


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file: this directory, this interpreter or that of the active environment, one loopback address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    settings = from_run(app="hello:app")
    assert (settings.file, settings.directory, settings.python) == (None, str(tmp_path), sys.executable)
    assert [a.text() for a in settings.listen] == ["127.0.0.1:8000"]
    monkeypatch.setenv("VIRTUAL_ENV", "/venv")
    settings = from_run(app="hello:app", workers=2, listen=["8000"], reload={"soak": "0"}, python=None)
    assert (settings.workers, settings.python, settings.reload.soak) == (2, "/venv/bin/python", 0.0)
    assert from_run(command=["node", "x.js"]).command == ("node", "x.js")


def test_run_is_checked() -> None:
    """What a file may not say, a command line may not either."""
    with pytest.raises(Invalid) as e:
        from_run(app="hello", name="hello")
    assert str(e.value).startswith('hello: app: found "hello"')


def test_surroundings(tmp_path: Path) -> None:
    """What the machine lacks is told apart from what the file has wrong."""
    env = tmp_path / "x.env"
    env.write_text("A")
    base = {"directory": str(tmp_path), "python": sys.executable, "listen": "80"}
    assert surroundings(from_run(app="a:b", **base)) == []
    lacking = from_run(
        app="a:b", name="x", directory=f"{tmp_path}/gone/app", python=f"{tmp_path}/python", environment_file=str(env)
    )
    assert [str(p) for p in surroundings(lacking)] == [
        f"x: directory: found '{tmp_path}/gone/app', expected an existing directory; hint: there is no "
        f"'{tmp_path}/gone'",
        f"x: python: found '{tmp_path}/python', expected an executable file",
        f"x: environment-file: found '{env}': line 1: no '=' in it: expected NAME=value, expected a readable file",
    ]
    assert [p.key for p in surroundings(from_run(command=["/gone"], directory=str(tmp_path)))] == ["command"]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o602], ids=oct)
def test_what_others_may_write(tmp_path: Path, mode: int) -> None:
    """Where systemd serves what a file says, nobody but its owner may change it; a file that is given to `run` is its
    reader's business. In a user's own place, that user's group is nobody else."""
    path = write(tmp_path, GOOD)
    path.chmod(mode)
    place = SYSTEM._replace(configuration=str(tmp_path))
    assert load(path).app == "hello:app"
    with pytest.raises(Invalid) as e:
        load(path, place)
    assert str(e.value) == (
        f"{path}: found mode {mode:04o} of '{path}', which others than its owner may write, expected a file and a "
        f"directory that only their owner may write; hint: chmod go-w {path}"
    )
    if mode & 0o002:
        with pytest.raises(Invalid):
            load(path, place._replace(user=True))
    else:
        assert load(path, place._replace(user=True)).app == "hello:app"
    path.chmod(0o644)
    assert load(path, place).app == "hello:app"
    tmp_path.chmod(0o775)
    with pytest.raises(Invalid, match=f"found mode 0775 of '{tmp_path}', which others than its owner may write"):
        load(path, place)
    tmp_path.chmod(0o1777)  # as /tmp: others may not touch what is not theirs
    assert load(path, place).app == "hello:app"
