"""Every public name of `clusterd.worker`, used as an application would: this only has to type-check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from clusterd import worker


def me() -> tuple[int | None, int, int, int | None, str | None, str | None]:
    return worker.id, worker.slot, worker.slots, worker.generation, worker.app, worker.task


@worker.on("async")
async def heard(message: worker.Message) -> None:
    text: str = message.topic
    data: Any = message.data
    sender: int | None = message.sender
    print(text, data, sender)


@worker.on("plain")
def answered(message: worker.Message) -> list[int]:
    return [message.data]


still_async: Callable[[worker.Message], Awaitable[None]] = heard
still_plain: Callable[[worker.Message], list[int]] = answered


async def messages() -> None:
    await worker.broadcast("t")
    await worker.broadcast("t", {"a": [1, None]}, include_self=True)
    await worker.send(17, "t", 1.5)
    answer: Any = await worker.request(17, "t", timeout=0.5)
    await worker.publish("key", answer)
    stream: worker.Messages = worker.messages("t")
    async for message in stream:
        found: worker.Message = message
        print(found)
        stream.close()
    with worker.watch("key") as values:
        watch: worker.Watch = values
        async for value in values:
            print(value, watch.key)


def from_a_thread() -> Any:
    worker.sync.broadcast("t", include_self=True)
    worker.sync.send(17, "t", "data")
    worker.sync.publish("key", worker.value("key", default=1))
    try:
        return worker.sync.request(17, "t", timeout=2)
    except (worker.WorkerGone, worker.NoHandler, worker.HandlerFailed, worker.RequestTimeout) as e:
        error: worker.MessageError = e
        return str(error)
    except worker.MessageValueError as e:
        wrong: ValueError = e
        return str(wrong)


def state() -> Any:
    worker.cache.set("key", {"a": 1}, ttl="10s")
    count: int = worker.cache.incr("count", 2, ttl=1.5)
    gone: bool = worker.cache.delete("key")
    print(count, gone)
    try:
        return worker.cache.get_or_compute("key", 60, lambda: worker.cache.get("other", default=0))
    except (worker.CacheError, worker.CacheValueError) as e:
        return str(e)


async def state_too() -> None:
    async def compute() -> int:
        return 1

    await worker.cache.aset("key", b"bytes", ttl=1)
    count: int = await worker.cache.aincr("count")
    gone: bool = await worker.cache.adelete("key")
    print(await worker.cache.aget("key"), count, gone)
    print(await worker.cache.aget_or_compute("key", "1min", compute))


@worker.on_drain
def goodbye() -> None:
    print(worker.draining)


@worker.on_drain
async def goodbye_too() -> None:
    draining: bool = worker.draining
    print(draining)
