"""What can go wrong with a message, for the application to catch."""

from __future__ import annotations


class MessageError(Exception):
    """Any of those below; itself where there is no channel: while the application is imported, say."""


class MessageValueError(MessageError, ValueError):
    """A topic, key or value that cannot be sent; the text says why."""


class WorkerGone(MessageError):
    """There is no such worker, or it left before it answered. What was asked may have been done."""


class NoHandler(MessageError):
    """That worker has no handler for the topic."""


class HandlerFailed(MessageError):
    """The handler raised; the text is the exception's. Its traceback is in the log of its worker."""


class RequestTimeout(MessageError, TimeoutError):
    """No answer in time. What was asked may have been done, or be done yet."""
