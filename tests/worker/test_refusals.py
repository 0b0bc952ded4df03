"""Every way an application can be unfit, and the one line that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import ROOT, environment

from tests.patience import HANG

BROKEN = {
    "def app(:\n": ("SyntaxError in broken.py:1: ", True),
    "import os\n  x = 1\n": ("IndentationError in broken.py:2: unexpected indent", True),
    "\n1 / 0\n": ("importing 'broken' failed: ZeroDivisionError: division by zero (broken.py:2)", True),
    "import nonexistent_thing\n": ("broken.py:1 imports 'nonexistent_thing', which is not installed for ", True),
    "from os import nothing_like_it\n": ("importing 'broken' failed: ImportError: cannot import name", True),
    "raise SystemExit(3)\n": ("importing 'broken' called exit(3) (broken.py:1)", True),
    "async def application(scope, receive, send): ...\n": (
        "'broken' has no attribute 'app' (did you mean 'application'?)",
        False,
    ),
    "app = 'text'\n": ("'broken:app' is a str, not an ASGI or WSGI application", False),
    "def app(): ...\n": ("'broken:app' takes no arguments: if it makes the application, write 'broken:app()'", False),
}


@pytest.mark.parametrize("source", BROKEN)
def test_broken_modules(start, application: Path, source: str):
    """The reason is one line with the place in the application; the traceback has the application's frames only."""
    reason, with_traceback = BROKEN[source]
    (application / "broken.py").write_text(source)
    master = start()
    answer = master.boot(app="broken:app")
    assert answer["event"] == "failed"
    assert answer["reason"].startswith(reason), answer["reason"]
    assert "\n" not in answer["reason"]
    assert bool(answer["traceback"]) == with_traceback
    ours = answer["traceback"].replace(str(application), "")
    assert "clusterd" not in ours and "importlib" not in ours
    assert master.process.wait(HANG) == 1


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("helo:app", "no module 'helo' in '{directory}' (app = 'helo:app') (did you mean 'hello'?)"),
        ("hello.sub:app", "importing 'hello.sub' failed: "),
        ("hello", "app = 'hello': expected 'module:attribute'"),
        ("hello:app:x", "app = 'hello:app:x': expected 'module:attribute'"),
        ("hello:GREETING()", "'hello:GREETING' is a str, not a function: write it without '()'"),
        ("hello:GREETING.upper", "'hello:GREETING.upper' takes no arguments"),
        ("hello:GREETING.uper", "'hello:GREETING' has no attribute 'uper' (did you mean 'upper'?)"),
        (
            "hello:make(open('x'))",
            "app = 'hello:make(open('x'))': expected 'module:attribute' or 'module:factory()': the ",
        ),
        ("hello:app('x')", "'hello:app('x')' failed: TypeError: app() missing 2 required positional arguments"),
        ("hello:app()", "'hello:app()' failed: TypeError: app() missing 3 required positional arguments"),
    ],
)
def test_references(start, application: Path, app: str, reason: str):
    """What stands in the file is quoted as it stands there."""
    if app == "hello.sub:app":
        reason = "no module 'hello.sub'"
    answer = start().boot(app=app)
    assert answer["event"] == "failed"
    assert answer["reason"].startswith(reason.format(directory=application)), answer["reason"]


def test_a_factory(start, application: Path, slots):
    """ "module:factory()" is called once, in the zygote."""
    (application / "made.py").write_text("import hello\ndef make():\n    return hello.app\n")
    master = start()
    master.up(app="made:make()")
    master.serving(slots(1)).drain()


def test_a_factory_with_arguments(start, application: Path, slots):
    """Literals, as gunicorn has it, reach the factory as they stand in the file."""
    code = (
        "import hello\ndef make(*given, **named):\n    assert (given, named) == (('a:b', 2), {'tls': [True, None]})\n"
    )
    (application / "made.py").write_text(code + "    return hello.app\n")
    master = start()
    master.up(app="made:make('a:b', 2, tls=[True, None])")
    master.serving(slots(1)).drain()


def test_a_source_directory(start, application: Path, slots):
    """A module in "src" is not found, as elsewhere; the line says where it is, and what it says to do helps."""
    (application / "src/store").mkdir(parents=True)
    (application / "src/store/__init__.py").write_text("from hello import app\n")
    expected = (
        f"no module 'store' in '{application}' (app = 'store:app') (it is in 'src': set PYTHONPATH = \"src\" in [env])"
    )
    assert start().boot(app="store:app")["reason"] == expected
    master = start(env={"PYTHONPATH": "src"})
    master.up(app="store:app")
    master.serving(slots(1)).drain()


def test_engine_missing_in_a_venv(start):
    """The line that installs it for that very interpreter."""
    python = environment("none")
    answer = start(python=python).boot()
    expected = f"uvicorn is not installed for {python}: {python} -m pip install 'uvicorn[standard]'"
    assert answer["reason"] == expected


def test_engine_missing_for_debians_python(start):
    """Debian's interpreter takes Debian's package."""
    python = "/usr/bin/python3"
    found = subprocess.run([python, "-c", "import uvicorn"], capture_output=True, check=False)
    if not os.path.exists(python) or found.returncode == 0 or sys.prefix == "/usr":
        pytest.skip("needs a /usr/bin/python3 without uvicorn")
    reason = start(python=python).boot()["reason"]
    assert reason == "uvicorn is not installed for /usr/bin/python3: apt install python3-uvicorn"


def test_engine_too_old(start, tmp_path: Path):
    """A version below the supported range is refused with the line that upgrades it."""
    info = tmp_path / "old" / "uvicorn-0.15.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: uvicorn\nVersion: 0.15.0\n")
    python = environment("none")
    reason = start(python=python, env={"PYTHONPATH": str(info.parent)}).boot()["reason"]
    assert reason.startswith("uvicorn 0.15.0 of ") and "0.17.6 or newer is needed" in reason
    assert reason.endswith(f"{python} -m pip install -U 'uvicorn[standard]'")


def test_engine_too_new(start, tmp_path: Path):
    """A version above the range, of an engine whose inner parts are used, is refused with the line that fits it."""
    info = tmp_path / "new" / "granian-2.9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: granian\nVersion: 2.9.0\n")
    python = environment("none")
    for engine, app, example in (("auto", "shop:app", "wsgi"), ("granian", "hello:app", "hello")):
        master = start(python=python, env={"PYTHONPATH": str(info.parent)}, directory=ROOT / "examples" / example)
        assert master.boot(app=app, engine=engine)["reason"] == (
            f"granian 2.9.0 of {python} is newer than this version of clusterd knows, before 2.9 is needed: "
            f"{python} -m pip install 'granian>=2.8,<2.9'"
        )


def test_engine_that_debian_has_not(start):
    """Debian's interpreter takes nothing from pip, so it is told to use an environment."""
    reason = start(python="/usr/bin/python3").boot(engine="granian")["reason"]
    assert reason == (
        "granian is not installed for /usr/bin/python3: Debian has no package of it, make a virtual environment, "
        "install 'granian>=2.8,<2.9' there and set python"
    )


@pytest.mark.parametrize(
    ("engine", "app", "reason"),
    [
        ("waitress", "hello:app", "'hello:app' is ASGI, engine = 'waitress' serves WSGI: set engine = 'uvicorn'"),
        ("unicorn", "hello:app", "engine = 'unicorn': expected 'auto', 'uvicorn', 'waitress', 'granian'"),
    ],
)
def test_engine_that_does_not_fit(start, engine: str, app: str, reason: str):
    """`engine` overrides where looking does not tell, not where it does."""
    assert start().boot(engine=engine, app=app)["reason"] == reason


def test_a_directory_that_is_not_there(start, application: Path):
    """The directory may vanish between the check and the boot."""
    master = start()
    master.directory = application / "gone"
    answer = master.boot()
    assert answer["reason"] == f"directory '{application}/gone': No such file or directory"


LIFESPANS = {
    # The application says so, as Starlette does: a whole traceback as the message.
    "failed": (
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'Traceback:\\n  x\\nOSError: no database'})\n",
        "lifespan startup failed: OSError: no database",
    ),
    # A plain exception after it has listened is a failure too.
    "raises": (
        "    await receive()\n    raise OSError('no database')\n",
        "lifespan startup failed: OSError: no database",
    ),
    "exits": ("    await receive()\n    raise SystemExit(4)\n", "the application called exit(4)"),
}


@pytest.mark.parametrize("kind", LIFESPANS)
def test_lifespan_failures(start, application: Path, slots, kind: str):
    """The worker reports the reason and the traceback, and exits 1."""
    body, reason = LIFESPANS[kind]
    (application / "life.py").write_text(f"async def app(scope, receive, send):\n{body}")
    master = start()
    master.up(app="life:app")
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    failed = worker.peer.expect("failed")
    assert failed["reason"] == reason
    assert failed["traceback"]
    assert worker.peer.at_end()
    assert master.exited(worker) == 1 << 8


@pytest.mark.parametrize(
    "body",
    [
        "    assert scope['type'] == 'http'\n",
        "    await receive()\n    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n",
        "    return\n",
    ],
)
def test_no_lifespan_is_no_failure(start, application: Path, slots, body: str):
    """An application that knows no lifespan raises, answers nonsense, or returns: it is served all the same."""
    (application / "life.py").write_text(f"async def app(scope, receive, send):\n{body}")
    master = start()
    master.up(app="life:app")
    worker = master.serving(slots(1))
    worker.drain()
    worker.drained()


HEALTH = "async def app(scope, receive, send):\n    if scope['type'] == 'lifespan': return\n"
WSGI_HEALTH = "def app(environ, start_response):\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            HEALTH + "    await send({'type': 'http.response.start', 'status': 500})\n",
            "GET /healthz answered 500, [health] path expects 200 to 399",
        ),
        (HEALTH + "    raise KeyError('db')\n", "GET /healthz failed: KeyError: 'db'"),
        (HEALTH, "GET /healthz failed: RuntimeError: the application returned without a response"),
        (
            WSGI_HEALTH + "    start_response('503 Busy', [])\n    return []\n",
            "GET /healthz answered 503, [health] path expects 200 to 399",
        ),
        (WSGI_HEALTH + "    raise KeyError('db')\n", "GET /healthz failed: KeyError: 'db'"),
    ],
)
def test_health_failures(start, application: Path, slots, source: str, reason: str):
    """The check is a request in the process itself: the worker has not accepted anything yet."""
    (application / "ill.py").write_text(source)
    master = start()
    master.up(app="ill:app", health={"path": "/healthz"})
    worker = master.fork(slots(1))
    worker.peer.send({"op": "go"})
    assert worker.peer.expect("failed")["reason"] == reason
    assert master.exited(worker) == 1 << 8
