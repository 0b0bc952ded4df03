"""Workers that talk, as their application sees it: `clusterd run` and what it starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.foreground import Foreground
from tests.run.talking import Talking


@pytest.fixture
def run() -> Iterator[Talking]:
    with Talking(workers=3) as made:
        yield made.start()


def test_messages(run: Talking) -> None:
    """Broadcasts reach the others and sends one, plain and async; requests are answered, or told why not."""
    a, b, c = run.ids()
    for n in range(3):
        run.ask(a, "broadcast", "t", n)
    run.ask(a, "send", c, "plain", "ü")
    run.ask(a, "sync", "broadcast", "plain", "sync")
    for worker, said in ((b, ["sync"]), (c, ["ü", "sync"])):
        all_of_it = 3 + len(said)
        run.wait_for("it to be heard", lambda w=worker, n=all_of_it: len(run.ask(w, "heard")) >= n)
        heard = run.ask(worker, "heard")  # an async handler and a plain one run beside each other: in order each
        assert [m for m in heard if isinstance(m[0], int)] == [[n, a] for n in range(3)]
        assert [m for m in heard if isinstance(m[0], str)] == [[s, a] for s in said]
    run.hears(a)
    assert run.ask(a, "request", b, "double", 21) == [42, b]
    assert run.ask(a, "sync", "request", b, "double", "x") == ["xx", b]
    assert run.ask(a, "request", b, "bad", 1) == ["HandlerFailed", "KeyError: 'nothing'"]
    assert run.ask(a, "request", 99, "double", 1) == ["WorkerGone", "there is no worker 99 with messages"]
    assert run.ask(a, "request", b, "nothing", 1) == ["NoHandler", f"worker {b} has no handler for 'nothing'"]
    assert run.ask(a, "request", b, "leave", 1) == ["WorkerGone", f"worker {b} left before it answered"]
    large = "x" * (8 << 20)
    assert run.ask(a, "patient", c, "double", large[: 4 << 20]) == [large, c]
    assert "the handler of 'bad' raised" in run.said()


def test_values_through_everything(run: Talking) -> None:
    """A worker has the retained values when it starts: after a reload, a crash, and with other masters: after one that
    was killed, and one that made room, as at an upgrade."""
    first = run.ids()
    assert [run.ask(w, "start") for w in first] == [[None]] * 3
    run.ask(first[0], "publish", "users", {"n": 1})
    for worker in first:
        run.wait_for("the value", lambda w=worker: run.ask(w, "value", "users") == {"n": 1})
    second = run.reload()
    assert not set(first) & set(second)
    assert [run.ask(w, "start") for w in second] == [[{"n": 1}]] * 3
    run.kill_master()
    run.ask(second[0], "publish", "more", "é" * 10)
    killed = run.status()["master"]["pid"]
    os.kill(killed, signal.SIGUSR1)
    run.wait_for("another master", lambda: run.status()["master"]["pid"] not in (0, killed))
    os.kill(run.pids()[0], signal.SIGKILL)
    run.wait_for("another worker", lambda: run.at_rest() and set(run.ids()) - set(second))
    (born,) = set(run.ids()) - set(second)
    assert run.ask(born, "start") == [{"n": 1}]
    assert run.ask(born, "value", "more") == "é" * 10
    assert run.ask(born, "publish", "k" * 129, 1)[0] == "MessageValueError"


def test_another_master(run: Talking) -> None:
    """Workers go on talking when the master is replaced, requests that were under way too."""
    a, b, _ = run.ids()
    run.kill_master()
    run.wait_for("the bus", lambda: run.ask(a, "request", b, "double", 1) == [2, b])
    run.ask(a, "broadcast", "t", "after")
    run.hears(b, ["after", a])


def test_who_breaks_the_protocol_loses_the_bus_alone(run: Talking) -> None:
    """A worker that writes what is not the protocol serves on; the others are told that it is gone."""
    a, b, _ = run.ids()
    run.ask(b, "rude")
    run.wait_for("it to be told", lambda: f"worker {b} has lost its messages: not a JSON object" in run.said())
    assert run.ask(a, "request", b, "double", 1)[0] == "WorkerGone"
    assert run.ask(b, "broadcast", "t", 1)[0] == "MessageError"
    assert b in run.ids() and run.at_rest()


def test_an_application_without_messages() -> None:
    """A worker whose application asks for nothing has no thread, and is sent nothing."""
    with Foreground(workers=1) as plain:
        plain.start()
        (pid,) = plain.pids().values()
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
