"""The messages of this process: what it is told, to whom that goes, and what it waits for."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import Future
from typing import Any

from .. import frames, given, topics
from .errors import HandlerFailed, MessageError, MessageValueError, NoHandler, WorkerGone
from .handlers import Handler, Handlers, Loops
from .inbox import Message, log
from .link import Alone, Link
from .streams import Messages, Watch

ERRORS: dict[object, type[MessageError]] = {"gone": WorkerGone, "unheard": NoHandler, "refused": MessageValueError}

_IMPORTING = "while the application is imported there is no worker yet: send when it starts, or in a request"


class Hub:
    """One for each process. Made at the import, and opens nothing before that is over: in a zygote, before the fork."""

    def __init__(self) -> None:
        self.loops = Loops()
        self.handlers = Handlers(self.loops, lambda: given.asynchronous)
        self.streams: dict[str, list[Messages]] = {}
        self.watches: dict[str, list[Watch]] = {}
        self.values: dict[str, Any] = {}
        self.lost = 0
        self._link: Link | Alone | None = None
        self._owner = 0
        self._lock = threading.RLock()
        self._current = threading.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._publishes: dict[int, bytes] = {}

    def deafen(self) -> None:
        """Forget the handlers of the import."""
        self.handlers = Handlers(self.loops, lambda: False)

    # the connection

    @property
    def alone(self) -> bool:
        return isinstance(self.link, Alone)

    @property
    def opened(self) -> Link | Alone | None:
        """The connection of this process, if there is one already."""
        return self._link if self._owner == os.getpid() else None

    @property
    def link(self) -> Link | Alone:
        """Connected at the first use, with every retained value. Raises MessageError."""
        if self._link is None or self._owner != os.getpid():
            if threading.current_thread() is not threading.main_thread():
                given.imported.wait()  # one that the import has begun: what it has to say is no less to be said then
            with self._lock:
                if self._link is None:
                    self._connect()
                elif self._owner != os.getpid():
                    raise MessageError("this process was forked from a worker: it has no channel of its own")
        if not self._current.is_set() and not self._current.wait(60.0):
            raise MessageError("the master has not sent the retained values within 60 s")
        assert self._link is not None
        return self._link

    def _connect(self) -> None:
        if importing():
            raise MessageError(_IMPORTING)
        fd, link = _descriptor(), None
        if fd is not None:
            self._link = link = Link(fd, self.take, self.ended)
            link.start()
        else:
            self._link = Alone(self.take)
        self._owner = os.getpid()
        self._introduce()

    def _introduce(self) -> None:
        """Say what this process wants: at the beginning, and to each new master."""
        assert self._link is not None
        with self._lock:
            wanted = {topic for topic, found in [*self.handlers.by_topic.items(), *self.streams.items()] if found}
            for topic in sorted(wanted):
                self._link.offer(frames.encode({"op": "on", "topic": topic}), force=True)
            self._link.offer(frames.encode({"op": "values"}), force=True)
            # A master that died may have read them and done nothing: the same value once more does no harm.
            for publish in self._publishes.values():
                self._link.offer(publish, force=True)

    def _subscribe(self, op: str, topic: str) -> None:
        # Where there is no connection yet, its beginning says it.
        if self._link is not None and self._owner == os.getpid():
            self._link.offer(frames.encode({"op": op, "topic": topic}), force=True)

    # what this process wants

    def add(self, handler: Handler) -> None:
        with self._lock:
            self.handlers.add(handler)
            self._subscribe("on", handler.topic)
        if not importing():
            _ = self.link  # a handler hears from now on, not from the first message that this worker sends

    def stream(self, topic: str) -> Messages:
        made = Messages(topic, self._drop)
        _ = self.link
        with self._lock:
            self.streams.setdefault(topic, []).append(made)
            self._subscribe("on", topic)
        return made

    def watch(self, key: str) -> Watch:
        made = Watch(key, self._drop)
        _ = self.link
        with self._lock:
            self.watches.setdefault(key, []).append(made)
            if key in self.values:
                made.hear(self.values[key])
        return made

    def _drop(self, stream: Messages | Watch) -> None:
        with self._lock:
            if isinstance(stream, Watch):
                found = self.watches.get(stream.key, [])
                if stream in found:
                    found.remove(stream)
                if not found:
                    self.watches.pop(stream.key, None)
                return
            streams = self.streams.get(stream.topic, [])
            if stream in streams:
                streams.remove(stream)
            if not streams:
                self.streams.pop(stream.topic, None)
                if not self.handlers.by_topic.get(stream.topic):
                    self._subscribe("off", stream.topic)

    def expect(self) -> tuple[int, Future[Any]]:
        """A number for something that is answered, and its answer to come."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = future
        return number, future

    def publishing(self, number: int, publish: bytes) -> bytes:
        """`publish` is about to be sent, and again to another master, until it is answered."""
        with self._lock:
            self._publishes[number] = publish
        return publish

    def published(self, number: int) -> None:
        with self._lock:
            self._waiting.pop(number, None)
            self._publishes.pop(number, None)

    def forget(self, number: int) -> None:
        """The answer is not waited for any more."""
        with self._lock:
            waited = self._waiting.pop(number, None)
        if waited is not None:
            try:
                self.link.offer(frames.encode({"op": "forget", "number": number}), force=True)
            except MessageError:
                pass  # closed: nobody is left to be told

    # what it is told

    def take(self, message: dict[str, Any], size: int) -> None:
        """In the link's thread: nothing here waits, or runs the application's code."""
        try:
            self._take(message, size)
        except Exception:
            log.exception("a message of the master was not understood, ignoring")

    def _take(self, message: dict[str, Any], size: int) -> None:
        match message.get("event") or message.get("op"):
            case "broadcast" | "send":
                self.hear(Message(message["topic"], message["data"], message["from"], message.get("host"), size))
            case "request":
                self._asked(message, size)
            case "answer":
                answered = NoHandler if message.get("unheard") else HandlerFailed
                error = answered(message["error"]) if "error" in message else None
                self._settle(message["number"], message.get("data"), error)
            case "value":
                self._change(message["key"], message["value"])
            case "done":
                self._settle(message["number"], message["version"], None)
            case "failed":
                kind = ERRORS.get(message["error"], MessageError)
                self._settle(message["number"], None, kind(message["text"]))
            case "current":
                self._current.set()
            case "lost":
                self.lost += int(message["count"])
                log.warning("%s messages were lost: this worker read too slowly", message["count"])
            case "again":
                self._introduce()

    def hear(self, message: Message) -> None:
        with self._lock:
            streams = tuple(self.streams.get(message.topic, ()))
        for stream in streams:
            stream.hear(message)
        self.handlers.hear(message)

    def ended(self) -> None:
        """The other end is closed: nobody wants this worker any more, or it broke the protocol."""
        self._current.set()
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            _fail(future, MessageError("the channel to the master was closed before there was an answer"))

    def _change(self, key: str, value: Any) -> None:
        with self._lock:
            self.values[key] = value
            watches = tuple(self.watches.get(key, ()))
        for watch in watches:
            watch.hear(value)

    def _settle(self, number: int, found: Any, error: MessageError | None) -> None:
        with self._lock:
            future = self._waiting.pop(number, None)
        if future is None:
            return  # not waited for any more
        if error is not None:
            _fail(future, error)
        elif future.set_running_or_notify_cancel():
            future.set_result(found)

    def _asked(self, message: dict[str, Any], size: int) -> None:
        to, number, topic = message["from"], message["number"], message["topic"]

        def answer(found: Any, error: str | None, more: dict[str, Any] | None = None) -> None:
            reply: dict[str, Any] = {"op": "answer", "to": to, "number": number, **(more or {})}
            try:
                data = encoded(reply | ({"data": found} if error is None else {"error": error[:4000]}))
            except MessageValueError as e:
                log.error("the handler of '%s' returned what cannot be sent: %s", topic, e)
                data = encoded(reply | {"error": f"what the handler returned cannot be sent: {e}"})
            try:
                self.link.offer(data, force=True)
            except MessageError:
                pass  # the worker leaves: who asked is told by the master

        if self.handlers.by_topic.get(topic):
            self.handlers.ask(Message(topic, message["data"], to, size=size), answer)
        else:  # it may have streams, which answer nothing
            answer(None, f"the worker has no handler for '{topic}'", {"unheard": True})


def encoded(message: dict[str, Any]) -> bytes:
    """Raises MessageValueError."""
    try:
        data = frames.encode(message)
    except (TypeError, ValueError) as e:
        raise MessageValueError(f"expected what JSON has: {e}") from None
    if len(data) > topics.MAX_DATA:
        raise MessageValueError(f"message of {len(data)} bytes, at most {topics.MAX_DATA}")
    return data


def importing() -> bool:
    """Whether this is a zygote, or a worker that imports for itself: it is none yet."""
    return not given.imported.is_set() or ("CLUSTERD_APP" in os.environ and "CLUSTERD_WORKER" not in os.environ)


def _descriptor() -> int | None:
    """The bus of this worker; None outside a cluster. Raises MessageError."""
    if given.bus is not None:
        return given.bus
    if (named := os.environ.get("CLUSTERD_CHANNEL_FD", "")).isdigit():
        return int(named)
    if "CLUSTERD_WORKER" in os.environ:
        raise MessageError("this worker has no channel for messages: an older clusterd started it, or a worker did")
    return None


def _fail(future: Future[Any], error: MessageError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


hub = Hub()
