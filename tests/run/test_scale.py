"""More and fewer workers at run time: `clusterd scale`, SIGTTIN and SIGTTOU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.clients import asking
from tests.run.foreground import Foreground


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground(workers=2) as made:
        yield made.start()


def scale(run: Foreground, workers: str) -> str:
    """What `clusterd scale` says, without the name."""
    done = run.clusterd_on("scale", workers)
    said = done.stdout if done.returncode == 0 else done.stderr.splitlines()[0]
    return said.strip().removeprefix("clusterd: ").removeprefix("runtime: ")


def serving(run: Foreground) -> int:
    return sum(w["state"] == "serving" for w in run.status()["workers"])


def test_up_and_down_loses_nothing(run: Foreground) -> None:
    """More than there are slots, then one: so many serve when the command returns, and every request is answered."""
    with asking(("127.0.0.1", run.port)) as asked:
        for words, workers in (("20", 20), ("+3", 23), ("-22", 1), ("file", 2)):
            assert scale(run, words) == ("1 worker" if workers == 1 else f"{workers} workers")
            status = run.status()
            assert status["wanted"] == workers == sum(w["state"] == "serving" for w in status["workers"])
            assert len(status["slots"]["live"]) == min(workers, 16)
    asked.assert_nothing_lost()
    run.wait_for("who was too many to have left", lambda: len(run.status()["workers"]) == 2)
    assert "scaled from 1 to 2 workers" in run.said()


def test_it_holds_until_the_file_says_another_number(run: Foreground) -> None:
    """Over a reload, another master, and a worker's death; a file with another number wins."""
    assert scale(run, "3") == "3 workers"
    run.workers = 3
    assert run.clusterd("reload").returncode == 0
    run.wait_for("three of the new generation", run.at_rest)
    run.kill_master()
    victim = run.pids()[0]
    os.kill(victim, signal.SIGKILL)
    run.wait_for("three workers", lambda: run.at_rest(gone=victim))
    run.workers = 4
    run.configure()
    assert run.clusterd("reload").returncode == 0
    run.wait_for("as many as the file says", run.at_rest)
    run.workers = 3
    run.configure()
    assert run.clusterd("reload").returncode == 0
    run.wait_for("as many as the file says", run.at_rest)


def test_signals(run: Foreground) -> None:
    """Each SIGTTIN is one more, each SIGTTOU one fewer, and one always stays; whoever is sent them."""
    assert run.process is not None
    for more in (3, 4):
        run.process.send_signal(signal.SIGTTIN)  # to the keeper, which passes it on
        run.wait_for("one more", lambda n=more: serving(run) == run.status()["wanted"] == n)
    for fewer in (3, 2, 1, 1):
        run.signal_master(signal.SIGTTOU)
        run.wait_for("one fewer", lambda n=fewer: serving(run) == run.status()["wanted"] == n)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("0", "scale refused: expected 1 to 1024 workers, found 0; there are to be 2 now"),
        ("-2", "scale refused: expected 1 to 1024 workers, found 0; there are to be 2 now"),
        ("1025", "scale refused: expected 1 to 1024 workers, found 1025; there are to be 2 now"),
    ],
)
def test_what_cannot_be(run: Foreground, asked: str, why: str) -> None:
    """It is refused in words, and nothing is changed."""
    assert scale(run, asked) == why
    assert run.status()["wanted"] == 2


def test_workers_that_cannot_be(run: Foreground) -> None:
    """The new ones do not become ready: those who asked are told, who serves goes on, and it heals by itself."""
    run.deploy(
        "hello",
        extra="""
import pathlib

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and pathlib.Path("broken").exists():
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no licence for another worker"})
        return
    await inner(scope, receive, send)
""",
    )
    assert run.clusterd("reload").returncode == 0
    (run.directory / "broken").touch()
    said = scale(run, "3")
    assert said.startswith("2 of 3 workers serve: worker ") and "no licence for another worker" in said
    assert serving(run) == 2
    (run.directory / "broken").unlink()
    run.workers = 3
    run.wait_for("three", run.at_rest)
