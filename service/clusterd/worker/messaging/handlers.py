"""Who in this process hears a topic: functions, plain and async, and streams.

Messages reach one handler one after another, in the order of their sender. Plain functions all run in one thread of
their own; async ones on the application's event loop, or on one in a thread where there is none. Requests to async
functions run beside each other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .inbox import Inbox, Message, log

if TYPE_CHECKING:
    import asyncio

Answer = Callable[[Any, "str | None"], None]
"""Called with what the handler returned and None, or with None and the text of what it raised."""


@dataclass(eq=False)
class Handler:
    topic: str
    function: Callable[[Message], Any]
    asynchronous: bool
    inbox: Inbox[Message] = field(init=False)
    pumping: bool = False

    def __post_init__(self) -> None:
        self.inbox = Inbox(f"handler of '{self.topic}'")

    def tell(self, error: BaseException) -> str:
        """Log it; what the asker is told of it."""
        log.error("the handler of '%s' raised", self.topic, exc_info=error)
        return f"{type(error).__name__}: {error}".removesuffix(": ")


class Loops:
    """Where async handlers run. `adopt` is told the application's loop; until then they wait, if there will be one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own: asyncio.AbstractEventLoop | None = None
        self._early: list[Callable[[], Any]] = []
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._loop = loop
            early, self._early = self._early, []
        for call in early:
            self.call(call, awaited=False)

    def call(self, function: Callable[[], Any], *, awaited: bool) -> None:
        """Run `function` in the loop soon; `awaited`: the application's loop is still to come."""
        with self._lock:
            loop = self._loop
            if loop is None and awaited:
                self._early.append(function)
                return
        try:
            if loop is not None:
                loop.call_soon_threadsafe(function)
                return
        except RuntimeError:  # closed: a test's, or the worker is about to leave
            if awaited:
                return
        self._own_loop().call_soon_threadsafe(function)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """In the loop: run it, kept from the collector."""
        import asyncio

        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._own is None:
                self._own = asyncio.new_event_loop()
                threading.Thread(target=self._own.run_forever, name="clusterd-loop", daemon=True).start()
            return self._own


class Handlers:
    """`awaits_loop` says whether the application will have an event loop of its own."""

    def __init__(self, loops: Loops, awaits_loop: Callable[[], bool]) -> None:
        self.by_topic: dict[str, list[Handler]] = {}
        self._loops = loops
        self._awaits_loop = awaits_loop
        self._plain: Inbox[Callable[[], None]] = Inbox("plain handlers")
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, handler: Handler) -> None:
        self.by_topic.setdefault(handler.topic, []).append(handler)

    def hear(self, message: Message) -> None:
        for handler in tuple(self.by_topic.get(message.topic, ())):
            if handler.asynchronous:
                if handler.inbox.put(message, message.size):
                    self._loops.call(functools.partial(self._kick, handler), awaited=self._awaits_loop())
            else:
                self._in_thread(functools.partial(self._run, handler, message, None), message.size)

    def ask(self, message: Message, answer: Answer) -> None:
        """The first handler of the topic answers; there is one."""
        handler = self.by_topic[message.topic][0]
        if handler.asynchronous:
            self._loops.call(
                lambda: self._loops.spawn(self._reply(handler, message, answer)), awaited=self._awaits_loop()
            )
        elif not self._in_thread(lambda: self._run(handler, message, answer), message.size):
            answer(None, "the worker has too much to handle: it has dropped the request")

    # plain

    def _in_thread(self, call: Callable[[], None], size: int) -> bool:
        taken = self._plain.put(call, size)
        with self._more:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="clusterd-handlers", daemon=True)
                self._thread.start()
            self._more.notify()
        return taken

    def _work(self) -> None:
        while True:
            with self._more:
                while (call := self._plain.take()) is None:
                    self._more.wait()
            call()

    def _run(self, handler: Handler, message: Message, answer: Answer | None) -> None:
        found, error = None, None
        try:
            found = handler.function(message)
        except BaseException as e:  # SystemExit too: a handler must not end the thread of the others
            error = handler.tell(e)
        if answer is not None:
            answer(found, error)

    # async

    def _kick(self, handler: Handler) -> None:
        if not handler.pumping:
            handler.pumping = True
            self._loops.spawn(self._pump(handler))

    async def _pump(self, handler: Handler) -> None:
        import asyncio

        try:
            while (message := handler.inbox.take()) is not None:
                await self._reply(handler, message, _unanswered)
        except asyncio.CancelledError:
            # Of something that the handler awaited, or of this task, which Python 3.10 cannot tell: another goes on.
            self._loops.call(functools.partial(self._kick, handler), awaited=self._awaits_loop())
            raise
        finally:
            handler.pumping = False

    async def _reply(self, handler: Handler, message: Message, answer: Answer) -> None:
        """Raises CancelledError, when it has answered."""
        import asyncio

        try:
            made: Awaitable[Any] = handler.function(message)
            found = await made
        except asyncio.CancelledError as e:
            answer(None, handler.tell(e))
            raise
        except Exception as e:
            answer(None, handler.tell(e))
        else:
            answer(found, None)


def _unanswered(found: Any, error: str | None) -> None:
    """To what was no request."""
