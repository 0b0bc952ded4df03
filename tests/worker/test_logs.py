"""Python logging as the journal gets it."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.worker import logs, native
from tests.patience import HANG
from tests.records import decode, receive

Journal = tuple[str, socket.socket]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A socket in the journal's place."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(HANG)
        yield path, sock


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("shop")  # not in the tree: the handlers of pytest stay out
    yield found
    for handler in found.handlers:
        handler.close()


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_encoding(fields: dict[str, str]) -> None:
    """Any value survives, with newlines, equals signs and NULs in it."""
    assert decode(native.encode(fields)) == fields


def test_a_record(journal: Journal, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback is one record; the worker, slot and generation are fields of it."""
    path, sock = journal
    for name, value in (("WORKER", "17"), ("SLOT", "3"), ("GENERATION", "5"), ("APP", "hello")):
        monkeypatch.setenv(f"CLUSTERD_{name}", value)
    logger.addHandler(logs.JournalHandler(path))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it %s", "failed")
    got = receive(sock)
    assert got["MESSAGE"].startswith("it failed\nTraceback (most recent call last):\n")
    assert got["MESSAGE"].endswith("ValueError: two\nlines")
    wanted = {
        "PRIORITY": "3", "LOGGER": "shop", "SYSLOG_IDENTIFIER": "hello/3",
        "CLUSTERD_WORKER": "17", "CLUSTERD_SLOT": "3", "CLUSTERD_GENERATION": "5",
        "CODE_FILE": __file__, "CODE_FUNC": "test_a_record",
    }  # fmt: skip
    assert {name: got[name] for name in wanted} == wanted


@pytest.mark.parametrize(("level", "priority"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7), (35, 4), (5, 7)])
def test_priorities(journal: Journal, logger: logging.Logger, level: int, priority: int) -> None:
    """Levels in between count as the one below."""
    path, sock = journal
    logger.addHandler(logs.JournalHandler(path))
    logger.log(level, "x")
    assert receive(sock)["PRIORITY"] == str(priority)


def test_a_record_larger_than_a_datagram(journal: Journal, logger: logging.Logger) -> None:
    """It goes in a sealed memory file."""
    path, sock = journal
    logger.addHandler(logs.JournalHandler(path))
    text = "x" * 3_000_000
    logger.error(text)
    assert receive(sock)["MESSAGE"] == text


def test_a_journal_that_is_gone(journal: Journal, logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """The application is not hurt, and the record is not silently lost."""
    path, _ = journal
    logger.addHandler(logs.JournalHandler(path + ".absent"))
    logger.error("important")
    assert "important" in capsys.readouterr().err


@pytest.mark.parametrize("default", [None, HANG])
def test_a_journal_that_stands_still(journal: Journal, logger: logging.Logger, default: float | None) -> None:
    """It is waited for once; who logs goes on. How many records it did not take is told when it takes one again.

    What the application has other sockets wait, is nothing to it."""
    path, sock = journal
    socket.setdefaulttimeout(default)
    try:
        handler = logs.JournalHandler(path)
    finally:
        socket.setdefaulttimeout(None)
    logger.addHandler(handler)
    began, number = time.monotonic(), 0
    while not handler.lost:
        logger.error("%d", number)
        number += 1
    assert time.monotonic() - began >= logs.PATIENCE
    for _ in range(99):
        logger.error("lost")
    assert time.monotonic() - began < 10, "half a second for each would be fifty"
    assert [receive(sock)["MESSAGE"] for _ in range(number - 1)] == [str(each) for each in range(number - 1)]
    logger.error("back")
    missing = receive(sock)
    assert (missing["MESSAGE"], missing["PRIORITY"]) == ("100 log records are missing here", "4")
    assert receive(sock)["MESSAGE"] == "back"


def test_an_application_that_configures_logging_is_left_alone(start, application: Path, slots) -> None:
    """Our handler is there only when the root logger has none."""
    (application / "logs.py").write_text(
        "import logging\nfrom hello import app\nlogging.basicConfig(format='mine %(message)s', level='WARNING')\n"
        "logging.getLogger().warning('at import')\n"
        "class App:\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        logging.getLogger('shop').info('no')\n"
        "        logging.getLogger('shop').warning('yes')\n"
        "        await app(scope, receive, send)\n"
        "app2 = App()\n"
    )
    master = start()
    master.up(app="logs:app2")
    worker = master.serving(slots(1))
    worker.drain()
    worker.drained()
    assert worker.output() == "mine yes\n"


def test_lines_without_a_journal(start, application: Path, slots) -> None:
    """In the foreground: plain lines on the worker's own output, from [log] level on; prints come as they are."""
    (application / "logs.py").write_text(
        "import logging\nimport hello\n"
        "async def app(scope, receive, send):\n"
        "    print('printed')\n"
        "    logging.getLogger('shop').debug('no')\n"
        "    logging.getLogger('shop').info('yes')\n"
        "    await hello.app(scope, receive, send)\n"
    )
    master = start()
    master.up(app="logs:app")
    worker = master.serving(slots(1))
    worker.drain()
    worker.drained()
    assert sorted(worker.output().splitlines()) == ["INFO shop: yes", "printed"]


def test_access_log(start, application: Path, slots) -> None:
    """[log] access writes a line per request; without it there is none."""
    from harness import Client

    for access in (True, False):
        master = start()
        master.up(log={"access": access, "level": "info"})
        (slot,) = slots(1)
        worker = master.serving([slot])
        client = Client(slot.getsockname())
        client.get("/pid")
        client.close()
        worker.drain()
        worker.drained()
        assert ("GET /pid HTTP/1.1" in worker.output()) == access


def test_the_worker_module() -> None:
    """Outside a cluster it answers sensibly, and it cannot be assigned to."""
    import subprocess

    code = (
        "from clusterd import worker as w\n"
        "print(w.id, w.slot, w.slots, w.generation, w.app)\n"
        "try:\n    w.id = 3\nexcept AttributeError:\n    print('read-only')\n"
    )
    service = Path(__file__).parents[2] / "service"
    env = {k: v for k, v in os.environ.items() if not k.startswith("CLUSTERD_")}
    env["PYTHONPATH"] = str(service)
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "None 0 1 None None\nread-only\n"
