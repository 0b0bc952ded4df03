"""What is deployed in the tests of reloads: an application one can look into, and every way to break it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.systemd.apps import NODE, UVICORN, WAITRESS, App

WINDOW = '''

import asyncio, fcntl, pathlib, time

HERE = pathlib.Path(__file__).parent
whole = app


async def app(scope, receive, send):
    """Also: /cwd, /env?NAME, and /hold, whose answer begins with the pid and ends when the file 'release' is there."""
    path, query = scope.get("path"), scope.get("query_string", b"").decode()
    if path == "/cwd":
        await respond(send, 200, os.getcwd())
    elif path == "/env":
        await respond(send, 200, os.environ.get(query, "unset"))
    elif path == "/hold":
        begin, end = b"%d\\n" % os.getpid(), b"done\\n"
        headers = [(b"content-length", b"%d" % len(begin + end))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        while not HERE.joinpath("release").exists():
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": end})
    else:
        await whole(scope, receive, send)
'''
"""What the example cannot do, to be added to it."""

MORTAL = '''
async def lifespan(receive, send, whole=lifespan):
    """Dies as soon as the file 'die' is there."""
    async def die():
        while not HERE.joinpath("die").exists():
            await asyncio.sleep(0.02)
        os._exit(7)

    lifespan.task = asyncio.create_task(die())
    await whole(receive, send)
'''
LOCKING = '''
async def lifespan(receive, send, whole=lifespan):
    """Becomes ready in one process at a time."""
    message = await receive()
    lock = HERE.joinpath("lock").open()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError("another has the lock")
    await send({"type": "lifespan.startup.complete"})
    await whole(receive, send)
'''
GATED = """
print("imported", flush=True)
while not HERE.joinpath("go").exists():
    time.sleep(0.02)
"""
"""Is imported when the file 'go' is there."""


def windowed(greeting: str = "hello", *tails: str) -> str:
    """The example with WINDOW and `tails` added."""
    return "".join((UVICORN.source(greeting), WINDOW, *tails))


@dataclass(frozen=True)
class Breakage:
    """What is added to a working source, and what the refusal then says (a regular expression)."""

    name: str
    tail: str
    reason: str
    hangs: bool = False


ASGI = (
    Breakage("import", "\nraise RuntimeError('no such table')\n", r"RuntimeError: no such table \(hello\.py:\d+\)"),
    Breakage(
        "lifespan",
        "\nasync def lifespan(receive, send):\n    await receive()\n    raise RuntimeError('no database')\n",
        "lifespan startup failed: .*no database",
    ),
    Breakage("health", "\nasync def answer(scope):\n    return 500, 'broken'\n", "GET /healthz answered 500"),
    Breakage(
        "never",
        "\nasync def lifespan(receive, send):\n    await asyncio.sleep(3600)\n",
        "not (ready|imported) within 1 s",
        hangs=True,
    ),
    Breakage(
        "soak",
        """
whole = lifespan
async def lifespan(receive, send):
    asyncio.get_running_loop().call_later(0.2, os._exit, 7)
    await whole(receive, send)
""",
        r"worker \d+ \(slot \d+\): exited with status 7",
    ),
    Breakage("syntax", "\ndef broken(:\n", r"SyntaxError in hello\.py:\d+: invalid syntax"),
)
WSGI = (
    Breakage("import", "\nraise RuntimeError('no such table')\n", r"RuntimeError: no such table \(wsgi\.py:\d+\)"),
    Breakage("health", "\ndef app(environ, start_response):\n    1 / 0\n", "GET /healthz failed: ZeroDivisionError"),
    Breakage("never", "\nimport time\ntime.sleep(3600)\n", "not (ready|imported) within 1 s", hangs=True),
    Breakage(
        "soak",
        """
import threading
whole = app
def app(environ, start_response):
    threading.Timer(0.2, os._exit, [7]).start()
    return whole(environ, start_response)
""",
        r"worker \d+ \(slot \d+\): exited with status 7",
    ),
    Breakage("syntax", "\ndef broken(:\n", r"SyntaxError in wsgi\.py:\d+: invalid syntax"),
)
COMMAND = (
    Breakage("raises", "\nthrow new Error('no such table');\n", r"worker \d+ \(slot \d+\): exited with status 1"),
    Breakage("never", "\nprocess.env.PATH = '/nowhere';\n", "not (ready|imported) within 1 s", hangs=True),
    Breakage("soak", "\nsetTimeout(() => process.exit(7), 600);\n", r"worker \d+ \(slot \d+\): exited with status 7"),
    Breakage("syntax", "\nfunction (;\n", r"worker \d+ \(slot \d+\): exited with status 1"),
)
BREAKAGES: dict[App, tuple[Breakage, ...]] = {UVICORN: ASGI, WAITRESS: WSGI, NODE: COMMAND}
"""In the order they are deployed: the last is what is on disk when a worker dies."""
