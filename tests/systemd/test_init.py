"""What `clusterd init` writes runs as it is: looked at, checked, started, and asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

ADDITION = images.Addition(
    "init",
    venvs=(
        ("/srv/flasks/.venv", ("flask", "waitress")),
        ("/srv/fast/venv", ("fastapi", "uvicorn")),
        ("/srv/star/.venv", ("starlette", "uvicorn")),
        ("/srv/django/.venv", ("django", "waitress")),
    ),
)

FLASK = """\
from flask import Flask


def create_app():
    app = Flask(__name__)
    app.add_url_rule("/healthz", "healthz", view_func=lambda: "well")
    app.add_url_rule("/", "index", view_func=lambda: "flask")
    return app
"""
FASTAPI = """\
from fastapi import FastAPI

api = FastAPI()


@api.get("/healthz")
def healthz():
    return "well"


@api.get("/")
def index():
    return "fastapi"
"""
STARLETTE = """\
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("starlette"))])
"""


def served(instance: Instance, directory: str, found: str) -> tuple[int, str]:
    """The answer of what init wrote for `directory`, without a change."""
    argv = ["clusterd", "init", "--name", instance.name, "--listen", f"127.0.0.1:{instance.port}", directory]
    said = instance.machine.run(argv).stdout
    assert f"found {found}" in said and f"wrote {instance.file}\n" in said, said
    assert f"next: clusterd check {instance.name}\n      clusterd start {instance.name}\n" in said
    instance.clusterd("check")
    instance.clusterd("start")
    return instance.get()


@pytest.mark.once
@pytest.mark.parametrize("example", ["hello", "wsgi"])
def test_examples(instance: Instance, project: Path, example: str) -> None:
    """The ASGI and the WSGI example need no word of ours: Debian's own servers run them, health check and all."""
    instance.machine.copy(project / "examples" / example, instance.directory)
    instance.machine.run(["rm", f"{instance.directory}/{example}.toml"])
    kind = "plain ASGI (ASGI): hello:app" if example == "hello" else "plain WSGI (WSGI): shop:app"
    assert served(instance, instance.directory, kind)[0] == 200


@pytest.fixture(scope="module")
def furnished(release: images.Release, deb: Path) -> Iterator[Container]:
    """A machine with frameworks from PyPI, each in a venv beside the application."""
    with container.boot(release, [deb], addition=ADDITION) as booted:
        yield booted


@pytest.mark.proof
def test_frameworks(furnished: Container, instances: Callable[[Container], Instance], project: Path) -> None:
    """Django as its own tool makes it, Flask, FastAPI, Starlette, Node: found, written, started, answering."""
    furnished.write("/srv/flasks/shop.py", FLASK)
    furnished.write("/srv/fast/main.py", FASTAPI)
    furnished.write("/srv/star/web.py", STARLETTE)
    furnished.run(["/srv/django/.venv/bin/django-admin", "startproject", "mysite", "/srv/django"])
    furnished.copy(project / "examples/node", "/srv/nodes")
    furnished.write("/srv/nodes/package.json", '{"name": "x", "scripts": {"start": "node server.js"}}')
    expected = {
        "flasks": ("Flask (WSGI): shop:create_app()", "flask"),
        "fast": ("FastAPI (ASGI): main:api", '"fastapi"'),
        "star": ("Starlette (ASGI): web:app", "starlette"),
        "django": ("Django (WSGI): mysite.wsgi:application", "The install worked successfully"),
        "nodes": ("Node.js: server.js", "hello from"),
    }
    for name, (found, answer) in expected.items():
        status, body = served(instances(furnished), f"/srv/{name}", found)
        assert status == 200 and answer in body, (name, body[:300])
