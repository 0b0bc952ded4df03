from __future__ import annotations

import os
import select
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import HELD_ASGI, HELD_WSGI, Master
from harness import listeners as make_listeners

from tests.patience import HANG

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy of the worker side that a master makes: if it needs anything else of ours, it fails here."""
    target = tmp_path_factory.mktemp("lib")
    service = ROOT / "service"
    ignore = shutil.ignore_patterns("__pycache__")
    (target / "clusterd").mkdir()
    shutil.copy(service / "clusterd/__init__.py", target / "clusterd")
    shutil.copytree(service / "clusterd/worker", target / "clusterd/worker", ignore=ignore)
    shutil.copy(service / "clusterd_zygote.py", target)
    return target


@pytest.fixture
def constants() -> str:
    """Lines of code that give constants of `clusterd.worker.channel` other values: times that pass, which a test that
    stood still would miss."""
    return ""


@pytest.fixture
def application(tmp_path: Path, constants: str) -> Path:
    """A directory with the examples hello and shop in it, both with HELD."""
    directory = tmp_path / "application"
    directory.mkdir()
    for example, how in (("hello/hello.py", HELD_ASGI), ("wsgi/shop.py", HELD_WSGI)):
        code = (ROOT / "examples" / example).read_text()
        (directory / Path(example).name).write_text(
            f"{code}\n{how}\nfrom clusterd.worker import channel\n{constants}\n"
        )
    return directory


@pytest.fixture
def begun(application: Path) -> Iterator[Callable[..., Any]]:
    """begun(ask, ...) -> what ask(...) returns, when the application has begun with that request.

    One that comes at the very same moment may wait for the thread of this one, with granian (docs/engines.md).
    """
    os.mkfifo(application / "begun")
    fd = os.open(application / "begun", os.O_RDWR)

    def begun(ask: Callable[..., Any], *args: Any) -> Any:
        asked = ask(*args)
        assert select.select([fd], [], [], HANG)[0], "the application does not begin with it"
        os.read(fd, 1)
        return asked

    yield begun
    os.close(fd)


@pytest.fixture
def start(lib: Path, application: Path) -> Iterator[Callable[..., Master]]:
    """start(python=, env=, directory=) -> a master whose zygote has not been told to boot."""
    masters: list[Master] = []

    def start(python: str = sys.executable, env: dict[str, str] | None = None, directory: Path | None = None) -> Master:
        masters.append(Master(lib, directory or application, python, env))
        return masters[-1]

    yield start
    for master in masters:
        master.close()


@pytest.fixture
def slots() -> Iterator[Callable[[int], list[socket.socket]]]:
    """slots(n) -> n listeners of one free address."""
    made: list[socket.socket] = []

    def slots(count: int = 1) -> list[socket.socket]:
        made.extend(found := make_listeners(count))
        return found

    yield slots
    for sock in made:
        sock.close()
