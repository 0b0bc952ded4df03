"""The applications: what their documentation has one write, and the lines of the TOML that serve it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Site:
    """One application. '@RELEASE@' in `files` is "release1", and "release2" in what it is upgraded to."""

    name: str
    venv: str
    toml: str
    """Its first lines; `directory`, `python` and `listen` are added."""
    files: dict[str, str]
    prepare: str = ""
    """A step of the deploy, by /bin/sh in the release's directory; $PYTHON is the venv's."""
    path: str = "/"
    """What is asked for; the answer has the release in it."""
    more: dict[str, int] = field(default_factory=dict)
    """Other paths, and the status each must have."""


SETTINGS = """
# what a deployment changes of the settings that startproject has written
import os
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
STATIC_ROOT = BASE_DIR / "static"
STATIC_URL = "/static/"
DATABASES["default"]["NAME"] = os.environ["STATE_DIRECTORY"] + "/db.sqlite3"
DATABASES["default"]["CONN_MAX_AGE"] = 60
"""
URLS = """

from django.contrib.auth.models import User
from django.http import HttpResponse


def home(request):
    return HttpResponse(f"@RELEASE@ has {User.objects.count()} user")


urlpatterns.append(path("", home))
"""
DJANGO = """
"$PYTHON" -m django startproject mysite .
cat settings >>mysite/settings.py
cat urls >>mysite/urls.py
"$PYTHON" manage.py migrate -v0
"$PYTHON" manage.py collectstatic --noinput -v0
DJANGO_SUPERUSER_PASSWORD=secret "$PYTHON" manage.py createsuperuser --noinput --username admin --email a@example.org ||
    "$PYTHON" manage.py check
"""
_DJANGO_FILES = {"settings": SETTINGS, "urls": URLS}
_DJANGO_PATHS = {"/admin/login/": 200, "/admin/": 302, "/nothing": 404}

FLASKR = '''
from flask import Flask


def create_app(test_config=None):
    """The application factory of Flask's tutorial."""
    app = Flask(__name__, instance_relative_config=True)
    app.config.from_mapping(SECRET_KEY="dev", GREETING="@RELEASE@")
    if test_config is not None:
        app.config.from_mapping(test_config)

    @app.route("/hello")
    def hello():
        return f"Hello from {app.config['GREETING']}"

    return app
'''

FASTAPI = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def read_root():
    return {"Hello": "@RELEASE@"}


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None):
    return {"item_id": item_id, "q": q}
"""

STARLETTE = """
import asyncio
import contextlib

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

READY = []


@contextlib.asynccontextmanager
async def lifespan(app):
    READY.append("@RELEASE@")
    yield


async def homepage(request):
    return PlainTextResponse(READY[0])


async def events(request):
    async def numbers():
        for number in range(1000):
            yield {"data": f"@RELEASE@ {number}"}
            await asyncio.sleep(0.2)

    return EventSourceResponse(numbers())


async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


app = Starlette(
    routes=[Route("/", homepage), Route("/events", events), WebSocketRoute("/ws", echo)], lifespan=lifespan
)
"""

LITESTAR = """
from litestar import Litestar, get


@get("/")
async def hello_world() -> str:
    return "@RELEASE@"


app = Litestar([hello_world])
"""

DATASETTE = """
from datasette.app import Datasette

app = Datasette(files=["fixtures.db"], metadata={"title": "@RELEASE@"}).app()
"""
FIXTURES = """
"$PYTHON" - <<'END'
import sqlite3
with sqlite3.connect("fixtures.db") as db:
    db.execute("create table if not exists facts (name text)")
    db.execute("insert into facts values ('answer')")
END
"""

FLASK = Site(
    "flask", "flask", "app = \"flaskr:create_app({'TESTING': False})\"", {"flaskr/__init__.py": FLASKR}, path="/hello"
)
FAST = Site(
    "fastapi",
    "fastapi",
    'app = "main:app"',
    {"main.py": FASTAPI},
    more={"/items/5?q=x": 200, "/items/x": 422, "/docs": 200},
)
WITH_SOCKETS = Site("starlette", "starlette", 'app = "example:app"', {"example.py": STARLETTE})
PYPISERVER = Site(
    "pypiserver",
    "pypiserver",
    "app = \"pypiserver:app(root='packages')\"",
    {"packages/@RELEASE@-1.0.tar.gz": "an archive"},
    path="/simple/",
    more={"/": 200, "/packages/release2-1.0.tar.gz": 200},
)
DJANGO_WSGI = Site(
    "django-wsgi", "django", 'app = "mysite.wsgi:application"', _DJANGO_FILES, DJANGO, more=_DJANGO_PATHS
)
DJANGO_ASGI = Site(
    "django-asgi", "django", 'app = "mysite.asgi:application"', _DJANGO_FILES, DJANGO, more=_DJANGO_PATHS
)
SITES = (
    DJANGO_WSGI,
    DJANGO_ASGI,
    FLASK,
    FAST,
    WITH_SOCKETS,
    Site("litestar", "litestar", 'app = "app:app"', {"app.py": LITESTAR}, more={"/schema": 200}),
    Site(
        "datasette",
        "datasette",
        'app = "my_asgi:app"',
        {"my_asgi.py": DATASETTE},
        FIXTURES,
        more={"/fixtures/facts.json": 200},
    ),
    PYPISERVER,
)
