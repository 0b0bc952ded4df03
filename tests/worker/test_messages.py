"""The API of messages in a cluster of one: a test, a REPL, any program."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd import worker
from clusterd.worker import messaging
from clusterd.worker.messaging import calls, sync
from clusterd.worker.messaging.hub import Hub
from clusterd.worker.messaging.inbox import MAX_MESSAGES, Inbox
from tests.patience import HANG
from tests.processor import spent

SERVICE = Path(__file__).parents[2] / "service"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A process that has said nothing yet."""
    made = Hub()
    for module in (messaging, calls, sync):
        monkeypatch.setattr(module, "hub", made)
    for name in [name for name in os.environ if name.startswith("CLUSTERD_") and name != "CLUSTERD_TEST_CACHE"]:
        monkeypatch.delenv(name)
    yield made


def test_a_sender_does_not_hear_itself() -> None:
    """A broadcast reaches the others; its sender too where it asks for that."""
    heard: list[Any] = []
    done = threading.Event()

    @worker.on("t")
    def hear(message: worker.Message) -> None:
        heard.append((message.topic, message.data, message.sender))
        done.set()

    worker.sync.broadcast("t", 1)
    worker.sync.broadcast("t", {"n": [2]}, include_self=True)
    assert done.wait(HANG)
    assert heard == [("t", {"n": [2]}, None)]


def test_request_and_its_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A request is answered by what the handler returns; each way to fail has an exception of its own."""

    @worker.on("double")
    async def double(message: worker.Message) -> int:
        await asyncio.sleep(0)
        return int(message.data) * 2

    @worker.on("plain")
    def plain(message: worker.Message) -> object:
        return object() if message.data is None else message.data

    @worker.on("never")
    async def never(message: worker.Message) -> None:
        await asyncio.Event().wait()

    async def ask() -> None:
        assert await asyncio.gather(*(worker.request(None, "double", n) for n in range(5))) == [0, 2, 4, 6, 8]
        assert await worker.request(None, "plain", "x") == "x"
        with pytest.raises(worker.HandlerFailed, match="ValueError: invalid literal"):
            await worker.request(None, "double", "x")
        with pytest.raises(worker.HandlerFailed, match="cannot be sent"):
            await worker.request(None, "plain", None)
        with pytest.raises(worker.NoHandler, match="no handler for 'nothing'"):
            await worker.request(None, "nothing")
        with pytest.raises(worker.RequestTimeout, match="not answered 'never' within"):
            await worker.request(None, "never", timeout=0.01)
        with pytest.raises(worker.WorkerGone, match="there is no worker 7"):
            await worker.request(7, "double", 1)
        with pytest.raises(worker.MessageError, match="would hold up the event loop"):
            worker.sync.request(None, "double", 1)

    with caplog.at_level(logging.ERROR, "clusterd.worker"):
        asyncio.run(ask())
    assert "the handler of 'double' raised" in caplog.text
    assert worker.sync.request(None, "plain", [1]) == [1]
    assert worker.sync.request(None, "double", 4) == 8, "an async handler runs where no loop is, too"


def cancelled() -> asyncio.Future[None]:
    """As a pool of connections has that is closed, or a task that was cancelled by somebody else."""
    made = asyncio.get_running_loop().create_future()
    made.cancel()
    return made


def test_a_handler_that_meets_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """Who asked is answered at once, and the messages after it are handled: also where the handler itself is
    cancelled, by whoever cancels all tasks."""
    heard: list[int] = []
    waits, all_heard = asyncio.Event(), asyncio.Event()

    @worker.on("ask")
    async def ask(message: worker.Message) -> None:
        await cancelled()

    @worker.on("wait")
    async def wait(message: worker.Message) -> None:
        running.append(asyncio.current_task())
        waits.set()
        await asyncio.Event().wait()

    @worker.on("t")
    async def hear(message: worker.Message) -> None:
        heard.append(message.data)
        if message.data == 5:
            all_heard.set()
        if message.data == 1:
            await cancelled()
        if message.data == 3:
            task = asyncio.current_task()
            assert task is not None and task.cancel()
        await asyncio.sleep(0)

    async def say() -> None:
        with pytest.raises(worker.HandlerFailed, match="CancelledError"):
            await worker.request(None, "ask", timeout=HANG)
        asked = asyncio.ensure_future(worker.request(None, "wait", timeout=HANG))
        await waits.wait()
        assert running[0] is not None and running[0].cancel()
        with pytest.raises(worker.HandlerFailed, match="CancelledError"):
            await asked
        assert [task for task in running if task is None or not task.cancelled()] == []
        for n in range(1, 6):
            await worker.send(None, "t", n)
        await all_heard.wait()

    running: list[asyncio.Task[Any] | None] = []
    with caplog.at_level(logging.ERROR, "clusterd.worker"):
        asyncio.run(asyncio.wait_for(say(), HANG))
    assert heard == [1, 2, 3, 4, 5]
    assert [caplog.text.count(f"the handler of '{topic}' raised") for topic in ("ask", "wait", "t")] == [1, 1, 2]


def test_order_of_one_handler() -> None:
    """Messages come to a handler one after another, in order, however long it takes over each."""
    heard: list[int] = []
    all_heard = asyncio.Event()

    @worker.on("t")
    async def hear(message: worker.Message) -> None:
        await asyncio.sleep(0.001 if message.data % 2 else 0)
        heard.append(message.data)
        if len(heard) == 20:
            all_heard.set()

    async def say() -> None:
        for n in range(20):
            await worker.send(None, "t", n)
        await all_heard.wait()

    asyncio.run(asyncio.wait_for(say(), 20))
    assert heard == list(range(20))


def test_streams() -> None:
    """A stream has what is said from its call on, until it is closed."""

    async def listen() -> list[Any]:
        with worker.messages("t") as stream:
            threading.Thread(target=lambda: [worker.sync.send(None, "t", n) for n in range(3)]).start()
            found = [(await anext_(stream)).data for _ in range(3)]
        assert [m async for m in stream] == []
        return found

    async def anext_(stream: worker.Messages) -> worker.Message:
        return await asyncio.wait_for(stream.__anext__(), 10)

    assert asyncio.run(listen()) == [0, 1, 2]


def test_retained_values() -> None:
    """What is published is there at once; who watches gets the present value, then the last of those that follow."""

    async def publish() -> None:
        assert worker.value("users") is None and worker.value("users", 0) == 0
        await worker.publish("users", 1)
        assert worker.value("users") == 1
        with worker.watch("users") as changes:
            assert await changes.__anext__() == 1
            for n in (2, 3):
                await worker.publish("users", n)
            assert await changes.__anext__() == 3

    asyncio.run(publish())
    worker.sync.publish("users", [4])
    assert worker.value("users") == [4]


@pytest.mark.parametrize(
    ("topic", "data", "text"),
    [
        ("", 1, "topic '': expected 1 to 128 bytes, found 0"),
        ("ü" * 65, 1, "expected 1 to 128 bytes, found 130"),
        ("a\n", 1, "printable"),
        (7, 1, "expected a string, found int"),
        ("t", float("nan"), "expected what JSON has"),
        ("t", {1, 2}, "expected what JSON has"),
        ("t", json.loads("[" * 500 + "]" * 500), "more than 500 lists and objects in one another"),
        ("t", "x" * (16 << 20), "at most"),
    ],
)
def test_what_cannot_be_sent(topic: Any, data: Any, text: str) -> None:
    """What cannot be sent is refused where it is sent, in words."""
    with pytest.raises(worker.MessageValueError, match=text):
        worker.sync.broadcast(topic, data)


def test_while_the_application_is_imported(monkeypatch: pytest.MonkeyPatch, fresh: Hub) -> None:
    """In a zygote handlers are registered, nothing is opened, and who sends is told why he cannot."""
    monkeypatch.setenv("CLUSTERD_APP", "hello")
    worker.on("t")(lambda message: None)
    assert worker.value("users", 5) == 5
    with pytest.raises(worker.MessageError, match="there is no worker yet"):
        worker.sync.broadcast("t", 1)
    assert fresh.opened is None


def test_a_slow_handler_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """More than fits is dropped, the newest, counted, and told once."""
    inbox: Inbox[int] = Inbox("handler of 't'")
    with caplog.at_level(logging.WARNING, "clusterd.worker"):
        taken = [inbox.put(n, 1) for n in range(MAX_MESSAGES + 5)]
    assert taken.count(False) == inbox.lost == 5 and taken[-1] is False
    assert caplog.text.count("newer ones are dropped") == 1
    assert inbox.take() == 0


def test_import_costs_nothing() -> None:
    """`from clusterd import worker` imports neither asyncio nor the messages, and starts no thread."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from clusterd import worker; worker.id; import threading;"
        "print([m for m in ('asyncio', 'json', 'clusterd.worker.messaging') if m in sys.modules]);"
        "from clusterd.worker import messaging; print('asyncio' in sys.modules, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(SERVICE)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False 1"]


def test_import_takes_no_time() -> None:
    """With `from clusterd import worker` a program takes at most a fifth longer than one that does nothing."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from clusterd import worker; worker.id"
    nothing, imported = [], []
    for turn in range(100):
        if turn >= 12 and min(imported) <= 1.2 * min(nothing):
            break  # a busy machine makes them take more, never less
        nothing.append(spent([sys.executable, "-I", "-c", "pass", str(SERVICE)]))
        imported.append(spent([sys.executable, "-I", "-c", code, str(SERVICE)]))
    assert min(imported) <= 1.2 * min(nothing), f"{min(imported) * 1e3:.1f} ms, {min(nothing) * 1e3:.1f} ms"
