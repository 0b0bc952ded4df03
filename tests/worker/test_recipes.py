"""The files of examples/sessions by themselves: each does what its framework expects of what it stands in for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.redises import server

ROOT = Path(__file__).parents[2]

DJANGO = """
from django.conf import settings
settings.configure(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                           "shared": {"BACKEND": "django_cache.Cache", "TIMEOUT": 60, "KEY_PREFIX": "p"}})
from django.core.cache import caches

def told(cache, what, *given, **named):
    try:
        return getattr(cache, what)(*given, **named)
    except ValueError as e:
        return type(e).__name__

STEPS = [
    ("get", "a"), ("get", "a", 7), ("set", "a", {"b": [1, None]}), ("get", "a"), ("has_key", "a"),
    ("delete", "a"), ("delete", "a"), ("add", "a", 1), ("add", "a", 2), ("get", "a"),
    ("incr", "a"), ("incr", "a", 4), ("decr", "a"), ("incr", "b"), ("get", "b"),
    ("set", "a", 1, 0), ("get", "a"), ("set", "a", 1, -5), ("get", "a"), ("add", "a", 1, 0), ("get", "a"),
    ("set", "a", None, None), ("get", "a", 7), ("has_key", "a"), ("add", "a", 1, None),
    ("get_or_set", "c", 5), ("get_or_set", "c", 6),
    ("set_many", {"x": 1, "y": 2}), ("get_many", ["x", "y", "z"]), ("delete_many", ["x"]), ("get_many", ["x", "y"]),
    ("set", "a", 2, 100, 2), ("get", "a", None, 2), ("get", "a"),
    ("incr_version", "c"), ("get", "c", None, 2), ("get", "c"),
]
for step in STEPS:
    expected, made = told(caches["default"], *step), told(caches["shared"], *step)
    assert made == expected, (step, made, expected)
assert told(caches["shared"], "set", "a", object()) == "CacheValueError"
"""
FLASK = """
import datetime, flask_cache
from clusterd import worker
from markupsafe import Markup
cache = flask_cache.Cache()
date = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
session = {"t": (1, "a"), "d": date, "m": Markup("<b>"), "b": b"x"}
for ttl in (0, 10, datetime.timedelta(seconds=10), None):
    assert cache.set("k", session, ttl)
    assert cache.get("k") == session and type(cache.get("k")["m"]) is Markup
assert (cache.delete("k"), cache.delete("k"), cache.get("k")) == (True, False, None)
"""
STARLETTE = """
import asyncio, starlette_store

async def main():
    store = starlette_store.Store()
    made = await store.write("mine", b"data", 100, 0)
    assert made != "mine" and await store.write(made, b"more", 0, 0) == made
    assert [await store.read(made, 100), await store.read("mine", 100)] == [b"more", b""]
    await store.remove(made)
    assert await store.read(made, 100) == b""

asyncio.run(main())
"""


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.proof)])
def place(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment that says where the cache is."""
    if request.param == "embedded":
        yield {}
        return
    with server() as running:
        yield {"CLUSTERD_CACHE": running.urls["unix"], "CLUSTERD_WORKER": "1", "CLUSTERD_APP": "test"}


def run(program: str, place: dict[str, str]) -> None:
    path = os.pathsep.join(map(str, (ROOT / "service", ROOT / "examples/sessions")))
    env = {"PYTHONPATH": path, "PATH": os.environ["PATH"], **place}
    # A redis-server that stands still for a second is no matter here.
    program = f"from clusterd.worker.caching import redis\nredis.TIMEOUT = {HANG}\n{program}"
    made = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, env=env, timeout=120)
    assert made.returncode == 0, made.stderr


def test_django(place: dict[str, str]) -> None:
    """The same steps give what Django's own cache in a process gives; what is not JSON is refused."""
    run(DJANGO, place)


def test_flask(place: dict[str, str]) -> None:
    """What Flask's own sessions can hold comes back as it was."""
    run(FLASK, place)


def test_starlette(place: dict[str, str]) -> None:
    """An id that this store has not made is never kept."""
    run(STARLETTE, place)
