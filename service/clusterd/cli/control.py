"""Talking to a running master, every wait bounded, every failure a CommandError with its exit status.

The exchange is Varlink's, on the one wire; docs/architecture.md has the methods.
"""

from __future__ import annotations

import errno
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import click

from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.files import count, describe
from clusterd.cli.instances import Instance
from clusterd.config.difference import Change, how
from clusterd.shell import client, fields
from clusterd.worker.wire import Closed, WireError

DATA = ("Run", "Listen")
"""Methods whose replies have what applications say, for programs; those of all others are for people."""

PATIENCE = 10.0
"""Seconds without a reply after which a master is asked for a sign of life, or given up. It answers in milliseconds."""


class NotRunning(CommandError):
    """Nobody listens on the control socket."""


class Lost(CommandError):
    """The master went away in the middle of a call."""


class Late(CommandError):
    """The master lives, and has not answered in the time there was."""


class NoTask(CommandError):
    """The application has none of that name, but those of `known`."""

    known: tuple[str, ...] = ()


class RestartNeeded(CommandError):
    """The file asks for what a reload cannot change."""


def status(instance: Instance, *, patience: float = PATIENCE) -> dict[str, Any]:
    """The Status object of docs/architecture.md."""
    found = once(instance, "Status", patience=patience).get("status")
    if not isinstance(found, dict):
        raise CommandError(f"{instance.name}: the reply to Status has no status", Exit.UNREACHABLE)
    return found


def once(
    instance: Instance, method: str, parameters: dict[str, Any] | None = None, *, patience: float = PATIENCE
) -> dict[str, Any]:
    """The one reply to a method that does not stream."""
    return list(call(instance, method, parameters or {}, patience=patience))[-1]


def call(
    instance: Instance,
    method: str,
    parameters: dict[str, Any],
    *,
    more: bool = False,
    patience: float = PATIENCE,
    limit: float = math.inf,
) -> Iterator[dict[str, Any]]:
    """The parameters of each reply to `method`; with `more`, as many as the master sends.

    A call with `more` may be silent for as long as the master's own deadlines allow, and for `limit` seconds in all,
    provided that the master still answers others. Raises NotRunning, Lost, Late, CommandError.

    The texts are printable: whoever listens on the socket need not be a master, and the reader may be root.
    """
    try:
        if more:
            replies = _patiently(instance, method, parameters, patience, limit)
        else:
            replies = client.call(instance.control, method, parameters, connect_timeout=patience, timeout=patience)
        for reply in replies:
            yield reply if method in DATA else fields.shown(reply)
    except client.VarlinkError as e:
        raise failure(instance, method, e.name, fields.shown(e.parameters)) from None
    except Closed:
        raise Lost(
            f"{instance.name}: the master went away during the call",
            Exit.UNREACHABLE,
            hint=instance.clusterd("status"),
        ) from None
    except WireError as e:
        raise CommandError(f"{instance.control}: not a clusterd master: {e}", Exit.UNREACHABLE) from None
    except OSError as e:
        raise unreachable(instance, e, patience) from None


def _patiently(
    instance: Instance, method: str, parameters: dict[str, Any], patience: float, limit: float
) -> Iterator[dict[str, Any]]:
    """The replies, from a thread: while none comes, the master is asked for a sign of life on another connection."""
    replies: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            for reply in client.call(instance.control, method, parameters, True, connect_timeout=patience):
                replies.put(reply)
            replies.put(None)
        except Exception as e:
            replies.put(e)

    # a daemon: when the master is given up, nothing else ends its wait
    threading.Thread(target=ask, daemon=True, name=method).start()
    end = time.monotonic() + limit
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise Late(f"{instance.name}: no answer to {method} within {limit:g} s", Exit.UNREACHABLE)
        try:
            reply = replies.get(timeout=min(patience, left))
        except queue.Empty:
            status(instance, patience=patience)
            continue
        if reply is None:
            return
        if isinstance(reply, Exception):
            raise reply
        yield reply


def unreachable(instance: Instance, error: OSError, patience: float) -> CommandError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
        if instance.file is None:
            return NotRunning(f"nobody listens on '{instance.control}'", Exit.UNREACHABLE)
        return NotRunning(f"{instance.name} is not running", Exit.UNREACHABLE, hint=instance.clusterd("start"))
    if isinstance(error, client.Stranger):
        hint = f"somebody has put another's socket there: ls -l '{instance.control}'"
        return CommandError(f"{instance.control}: {error.strerror}", Exit.NOT_ALLOWED, hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return CommandError(f"{instance.control}: permission denied", Exit.NOT_ALLOWED, hint="run it as root")
    if isinstance(error, TimeoutError) or error.errno in (errno.EAGAIN, errno.EINPROGRESS):
        return silent(instance, patience)
    return CommandError(f"{instance.control}: {error.strerror or error}", Exit.UNREACHABLE)


def membership(text: str) -> str:
    """What to do about what is not allowed."""
    if "group" in text:
        return "run it as root; or, as who may look, be in the group: 'sudo adduser YOU clusterd', then log in anew"
    return "run it as root"


def silent(instance: Instance, patience: float) -> CommandError:
    hint = instance.log if instance.file else ""
    return CommandError(
        f"{instance.name}: the master does not answer within {patience:g} s", Exit.UNREACHABLE, hint=hint
    )


def failure(instance: Instance, method: str, error: str, parameters: dict[str, Any]) -> CommandError:
    """The CommandError for an error reply; what does not fit into one line is printed here, before it."""
    verb = method.lower()
    text = str(parameters.get("text") or "")
    reason = str(parameters.get("reason") or "")
    if detail := parameters.get("detail"):
        lines = detail.splitlines() if isinstance(detail, str) else [str(line) for line in detail]
        for line in lines:
            click.echo(f"  {line}", err=True)
    match error:
        case "Refused":
            hint = refused_hint(verb, reason)
            return CommandError(f"{instance.name}: {verb} refused: {reason}", Exit.REFUSED, hint=hint)
        case "Returned":
            return CommandError(
                f"{instance.name}: the new generation kept dying, the previous one serves again: {reason}",
                Exit.RETURNED,
            )
        case "Superseded":
            by = f" by #{parameters['number']}" if parameters.get("number") else ""
            return CommandError(f"{instance.name}: {verb} superseded{by}", Exit.SUPERSEDED)
        case "Invalid":
            problems = parameters.get("problems") or []
            for problem in problems:
                click.echo(describe(problem), err=True)
            return CommandError(
                f"{instance.name}: {verb} refused: the configuration has {count(len(problems), 'problem')}",
                Exit.INVALID,
            )
        case "RestartNeeded":
            keys = parameters.get("keys") or []
            for key in keys:
                click.echo(f"  at {key.get('applies')}: {key.get('text') or key.get('key')}", err=True)
            return RestartNeeded(
                f"{instance.name}: {verb} refused: {count(len(keys), 'setting')} cannot change while it runs",
                Exit.REFUSED,
                hint=restart_hint(instance, keys),
            )
        case "NotAllowed":
            return CommandError(f"{instance.name}: {text or 'not allowed'}", Exit.NOT_ALLOWED, hint=membership(text))
        case "Stopping":
            return CommandError(f"{instance.name}: {verb} refused: it is stopping", Exit.STOPPING)
        case "Busy":
            hint = "with --wait that run is waited for" if "runs already" in text else ""
            return CommandError(f"{instance.name}: {verb} refused: {text or 'busy'}", Exit.REFUSED, hint=hint)
        case "NoTask":
            unknown = NoTask(f"{instance.name}: there is no such task", Exit.INVALID)
            unknown.known = tuple(map(str, parameters.get("known") or ()))
            return unknown
        case "org.varlink.service.MethodNotFound" | "org.varlink.service.MethodNotImplemented":
            return CommandError(f"{instance.name}: its master has no method {method}", Exit.REFUSED)
        case other:
            return CommandError(f"{instance.name}: {other} {parameters or ''}".rstrip(), Exit.REFUSED)


def refused_hint(verb: str, reason: str) -> str:
    if reason.startswith("undone: "):  # surge = K: some of its workers had served
        return "the workers it had replaced were replaced again, by the code before"
    return "" if verb in ("rollback", "scale") else "nothing was changed, the old workers serve on"


def restart_hint(instance: Instance, keys: list[dict[str, Any]]) -> str:
    """The command that makes these changes act."""
    changes = [Change(str(key.get("key")), "", "", key.get("applies", "restart")) for key in keys]
    return how(instance.name, changes, instance.place)
