from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gunicorn.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.cli.gunicorn import arguments, carry, reading
from clusterd.cli.gunicorn.table import TABLE
from clusterd.config.load import from_run
from tests import network
from tests.conftest import PROJECT
from tests.patience import HANG

from .conftest import Site

PROGRAM = """
import os
from multiprocessing import cpu_count

_port = 8100
bind = [f"127.0.0.1:{_port}", "unix:/run/shop.sock"]
workers = cpu_count()
worker_class = "gthread"
threads = 2 * 2
timeout = int(os.environ.get("TIMEOUT", "120"))
keepalive = 3
max_requests = 1000
raw_env = ["TOKEN=hunter2"]
user = "root"
wsgi_app = "shop.wsgi"
loglevel = os.environ["LEVEL"]


def post_fork(server, worker):
    raise SystemExit("never called")
"""


def test_every_setting_is_known() -> None:
    """Each setting of the gunicorn that is installed, with each of its options, is in the table: none is dropped."""
    known = {setting.name: set(setting.cli or ()) for setting in gunicorn.config.KNOWN_SETTINGS}
    assert sorted(set(known) - set(TABLE)) == []
    for name, options in known.items():
        assert options <= set(TABLE[name].options), name


def test_every_setting_is_told(site: Site) -> None:
    """A file that sets everything gets a line for everything."""
    path = site.root / "gunicorn.conf.py"
    path.write_text("".join(f"{name} = undefined()\n" for name in TABLE if name not in ("wsgi_app", "bind", "config")))
    status, out, err = site.run("import-gunicorn", str(path), "--app", "shop:app")
    assert status == 0
    for name in TABLE:
        assert name in ("config", "bind", "preload_app") or f": {name}: " in err, name
    assert tomllib.loads(out)["app"] == "shop:app"


def test_a_file(site: Site) -> None:
    """A file is carried over without being run; each setting is named, an environment's value never."""
    path = site.root / "gunicorn.conf.py"
    path.write_text(PROGRAM)
    status, out, err = site.run("import-gunicorn", str(path))
    assert status == 0
    found = tomllib.loads(out)
    found.pop("python", None)
    assert found == {
        "app": "shop.wsgi:application",
        "directory": str(site.root),
        "listen": ["127.0.0.1:8100", "/run/shop.sock"],
        "workers": "auto",
        "http": {"threads": 4, "keep-alive": "3s"},
        "health": {"watchdog": "120s"},
        "recycle": {"max-requests": 1000},
        "env": {"TOKEN": "hunter2"},
    }
    assert "not read: loglevel: the environment variable LEVEL: write it by hand" in err
    assert "not wanted: post_fork: " in err and "carried over: max_requests: " in err and "not wanted: user: " in err
    assert "changed: workers: " in err and "carried over: keepalive: " in err
    assert "hunter2" not in err
    written = site.config / "shop.toml"
    assert site.run("import-gunicorn", str(path), "-o", str(written))[0] == 0
    assert site.run("check", str(written))[0] in (0, 2)
    assert "error: " not in site.run("check", str(written))[2].replace("error: " + str(written) + ": directory", "")
    assert site.run("import-gunicorn", str(path), "-o", str(written))[0] == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "gunicorn -w 4 -k uvicorn.workers.UvicornWorker -b 0.0.0.0:8000 app:app",
            {"app": "app:app", "workers": 4, "engine": "uvicorn", "listen": "0.0.0.0:8000"},
        ),
        (
            "GUNICORN_CMD_ARGS='-b :9000 -w 2' FOO=bar exec /srv/v/bin/gunicorn --workers=3 --chdir /srv/x 'm:make()'",
            {"app": "m:make()", "workers": 3, "listen": "0.0.0.0:9000", "directory": "/srv/x", "env": {"FOO": "bar"},
             "http": {"threads": 1}},
        ),
        (
            "python3 -m gunicorn --threads 8 --graceful-timeout 40 --forwarded-allow-ips=10.0.0.1 app",
            {"app": "app:application", "workers": 1, "listen": "127.0.0.1:8000",
             "http": {"threads": 8, "forwarded-allow-ips": ["10.0.0.1"]},
             "reload": {"drain-timeout": "40s"}, "stop": {"drain-timeout": "40s"}},
        ),
    ],
)  # fmt: skip
def test_a_command_line(site: Site, monkeypatch: pytest.MonkeyPatch, words: str, expected: dict[str, object]) -> None:
    """A command line is carried over, as one word or many, with what stands before the program."""
    monkeypatch.chdir(site.root)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    status, out, _ = site.run("import-gunicorn", "--", words)
    assert status == 0
    assert tomllib.loads(out) == {"directory": str(site.root)} | expected


def test_the_command_line_is_stronger_than_its_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of -c, and gunicorn.conf.py where it is started, are read; what the command line says wins."""
    monkeypatch.chdir(site.root)
    Path("gunicorn.conf.py").write_text("workers = 7\nthreads = 3\n")
    for words in (["gunicorn", "-w", "2", "a:b"], ["gunicorn", "-c", "gunicorn.conf.py", "-w", "2", "a:b"]):
        status, out, _ = site.run("import-gunicorn", "--", *words)
        found = tomllib.loads(out)
        assert (status, found["workers"], found["http"]["threads"]) == (0, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers = (", "line 1"),
        ("workers = 3\n", "does not name the application"),
        ("\0", "it is a Python file"),
        ('wsgi_app = "shop:make(x)"\n', "no 'app' can be written: found \"shop:make(x)\""),
        ('wsgi_app = "shop:app"\nbind = "nowhere.example:80"\n', "names are not looked up"),
    ],
)
def test_what_cannot_be_imported(site: Site, text: str, message: str) -> None:
    """What has no result exits 2 and says where and why."""
    path = site.root / "gunicorn.conf.py"
    path.write_text(text)
    status, out, err = site.run("import-gunicorn", str(path))
    assert (status, out) == (2, "")
    assert message in err


def test_a_certificate_with_its_key(site: Site) -> None:
    """gunicorn takes a certificate's file for the key's where none is named; what is written says so, and is valid."""
    path = site.root / "gunicorn.conf.py"
    path.write_text('wsgi_app = "a:b"\ncertfile = "/c.pem"\n')
    status, out, err = site.run("import-gunicorn", str(path))
    found = tomllib.loads(out)
    assert (status, found["tls"]) == (0, {"certificate": "/c.pem", "key": "/c.pem"})
    assert "changed: certfile: tls.key = " in err
    assert from_run(**{**found, "name": "x"}).tls.key == "/c.pem"
    path.write_text('wsgi_app = "a:b"\ncertfile = "/c.pem"\nkeyfile = "/k.pem"\n')
    assert tomllib.loads(site.run("import-gunicorn", str(path))[1])["tls"]["key"] == "/k.pem"
    path.write_text('wsgi_app = "a:b"\ncertfile = "/c.pem"\nkeyfile = made()\n')
    status, out, err = site.run("import-gunicorn", str(path))
    assert "key" not in tomllib.loads(out)["tls"] and "not read: keyfile: " in err


def test_defaults_of_the_environment(site: Site) -> None:
    """WEB_CONCURRENCY, PORT and FORWARDED_ALLOW_IPS are gunicorn's defaults, and weaker than all else."""
    before = "WEB_CONCURRENCY=4 PORT=9000 FORWARDED_ALLOW_IPS=* gunicorn"
    status, out, err = site.run("import-gunicorn", "--", f"{before} a:b")
    found = tomllib.loads(out)
    assert (status, found["workers"], found["listen"]) == (0, 4, "0.0.0.0:9000")
    assert found["http"]["forwarded-allow-ips"] == ["*"]
    assert found["env"] == {"WEB_CONCURRENCY": "4", "PORT": "9000", "FORWARDED_ALLOW_IPS": "*"}
    assert "changed: bind: it depends on the environment variable PORT: it is fixed now" in err
    found = tomllib.loads(site.run("import-gunicorn", "--", f"{before} -w 2 -b :1 a:b")[1])
    assert (found["workers"], found["listen"]) == (2, "0.0.0.0:1")


def test_a_variable_is_not_an_address(site: Site) -> None:
    """What only a shell could fill in is told as not read, with what to give in its place."""
    _, out, err = site.run("import-gunicorn", "--", "gunicorn -b 0.0.0.0:$PORT a:b")
    told = "not read: bind: '0.0.0.0:$PORT' has a variable, which no shell fills in here: give its value"
    assert told in err and "$PORT" not in out


def test_a_module_is_not_imported(site: Site) -> None:
    """-c python:MODULE exits 2 and names the file to give."""
    status, out, err = site.run("import-gunicorn", "--", "gunicorn -c python:shop.conf a:b")
    assert (status, out) == (2, "")
    assert err.endswith("-c python:shop.conf: a module is not imported here\nhint: give its file: -c shop/conf.py\n")


def test_nothing_is_run(site: Site) -> None:
    """No call of the file is made, not even where its result would be a setting."""
    path = site.root / "gunicorn.conf.py"
    mark = site.root / "mark"
    path.write_text(f"import os\nwsgi_app = 'a:b'\nos.mkdir({str(mark)!r})\nworkers = os.mkdir({str(mark)!r}) or 3\n")
    status, _, err = site.run("import-gunicorn", str(path))
    assert status == 0 and not mark.exists()
    assert "not read: line 3: a call" in err and "not read: workers: 'os.mkdir()'" in err


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["x", "=", "(", ")", "[", "9" * 30, "*", "-", "\n", "if", ":", "'a'"])).map(" ".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the file has in it, it is read or refused, and nothing else happens."""
    with contextlib.suppress(SyntaxError, ValueError):
        reading.read(text, "gunicorn.conf.py")


HOSTILE = [
    "x = 'a' * 10**9",
    "x = 10 ** 10 ** 9",
    "x = 9 * 9\n" + "x = x * x\n" * 99,
    "x = [0]\n" + "x = x + x\n" * 99,
    "x = " + "(" * 300,
    "x = " + "-" * 9000 + "1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_file_costs_little(text: str) -> None:
    """Numbers, texts and nesting that would fill memory are refused."""
    try:
        found = reading.read(text, "gunicorn.conf.py").values["x"]
    except (SyntaxError, ValueError):
        return
    assert isinstance(found, reading.Unread)


def test_what_is_written_is_valid() -> None:
    """Values that gunicorn takes and the file does not are left out, and named."""
    values = {"wsgi_app": "a:b", "keepalive": 99999, "threads": 5000, "workers": 0, "user": "no name"}
    draft = carry.carry({name: reading.Value(value) for name, value in values.items()}, "/srv", None)
    assert tomllib.loads(carry.text(draft)) == {"app": "a:b", "directory": "/srv", "listen": "127.0.0.1:8000"}
    assert {note.setting for note in draft.notes if note.outcome == "not read"} == {
        "keepalive",
        "threads",
        "workers",
        "user",
    }


def test_options_as_gunicorn_has_them() -> None:
    """What gunicorn reads from a command line is what is read here."""
    words = [
        "--bind",
        "127.0.0.1:1",
        "-b",
        "[::1]:2",
        "-w",
        "3",
        "--preload",
        "-R",
        "--no-sendfile",
        "--log-level=debug",
    ]
    theirs = vars(gunicorn.config.Config().parser().parse_args([*words, "a:b"]))
    ours = {name: each.value for name, each in arguments.options([*words, "a:b"]).items()}
    assert ours.pop("wsgi_app") == "a:b"
    for name, value in ours.items():
        assert str(theirs[name]) == str(value), name


SHOP = """
import os
def application(environ, start_response):
    body = f"{os.environ['TOKEN']} {environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['wsgi.url_scheme']}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
"""


@contextlib.contextmanager
def serving(argv: list[str], directory: Path, port: int) -> Iterator[None]:
    """Until the end of the block, and not before the port takes connections."""
    env = {k: v for k, v in os.environ.items() if k != "GUNICORN_CMD_ARGS"}
    with (directory / "log").open("w+") as log:
        process = subprocess.Popen(argv, cwd=directory, env=env, stdout=log, stderr=log)
        try:
            until = time.monotonic() + HANG
            while process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)  # gunicorn tells nobody when it serves
            log.seek(0)
            assert process.poll() is None, log.read()
            yield
        finally:
            process.terminate()
            process.wait(HANG)


def answers(port: int) -> list[tuple[int, str]]:
    found = []
    for path in ("/", "/a%20b/c?d=e"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"X-Forwarded-Proto": "https"})
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            found.append((answer.status, answer.read().decode()))
    return found


def both_answers(site: Site) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Those of gunicorn, and those of what was imported, on the same port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (site.root / "shop.py").write_text(SHOP)
    (site.root / "gunicorn.conf.py").write_text(
        f'bind = "127.0.0.1:{port}"\nworkers = 2\nraw_env = ["TOKEN=x1"]\nwsgi_app = "shop"\n'
        "control_socket_disable = True\n"
    )
    with serving([sys.executable, "-m", "gunicorn"], site.root, port):
        theirs = answers(port)
    written = site.root / "shop.toml"
    assert site.run("import-gunicorn", str(site.root / "gunicorn.conf.py"), "-o", str(written))[0] == 0
    run = [
        sys.executable,
        "-I",
        "-B",
        str(PROJECT / "service/clusterd"),
        "run",
        str(written),
        "--python",
        sys.executable,
    ]
    with serving(run, site.root, port):
        ours = answers(port)
    return theirs, ours


def test_the_same_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that gunicorn serves is served from what was imported, with the same answers."""
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    with network.own_if_can_be():
        theirs, ours = both_answers(site)
    assert ours == theirs and len(ours) == 2
