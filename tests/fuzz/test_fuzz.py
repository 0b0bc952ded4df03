"""Every reader of what others write: whatever comes, it neither breaks nor hangs, nor keeps more than its bound."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tomllib
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.bus.retained import Table
from clusterd.bus.router import BRIDGE, Broken, Router
from clusterd.cli.gunicorn import reading
from clusterd.cli.program import clusterd
from clusterd.config.environment import EnvironmentFileError, parse_environment
from clusterd.config.load import Invalid, load
from clusterd.config.settings import TABLE, Settings
from clusterd.core.model import Cluster
from clusterd.master.ledger import Ledger
from clusterd.master.releases import Release
from clusterd.master.tasks import Body as Run
from clusterd.master.tasks import Tasks
from clusterd.master.workers import Body, Workers
from clusterd.master.zygotes import Zygote, Zygotes
from clusterd.shell import fields, pidfd
from clusterd.shell.control import MAX_CALLS, Control
from clusterd.shell.interface import METHODS
from clusterd.shell.notified import Notified
from clusterd.shell.poll import Poll
from clusterd.tasks.events import Asked as TaskAsked
from clusterd.tasks.events import Said, Situated, Start
from clusterd.tasks.machine import step
from clusterd.tasks.model import Plan
from clusterd.tasks.model import Tasks as Model
from clusterd.worker import board
from clusterd.worker.frames import Frames
from clusterd.worker.wire import Wire, WireError
from tests.fuzz.made import TEXT, VALUES, broken, encoded, messages, open_descriptors, pieces


def several(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=200), st.lists(broken(valid), max_size=3).map(b"".join))


BOUNDED = settings(max_examples=150, suppress_health_check=list(HealthCheck))
EVENTS = st.sampled_from(["awaits", "ready", "serving", "draining", "failed", "spent", "drained", "forked", "exited"])


@BOUNDED
@given(st.data())
def test_the_wire(data: st.DataObject) -> None:
    """Any bytes in any pieces, with descriptors beside them: messages or WireError, and no descriptor is left."""
    before = open_descriptors()
    sent = data.draw(several(messages({"fds": st.integers(0, 3), "event": EVENTS}).map(encoded)))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = Wire(ours, limit=64)
    try:
        for piece in data.draw(pieces(sent)):
            socket.send_fds(theirs, [piece], [0] * data.draw(st.integers(0, 2)))
            for message, fds in wire.receive():
                assert isinstance(message, dict)
                for fd in fds:
                    os.close(fd)
            assert len(wire._in) <= 64 and len(wire._fds) <= 253
    except WireError:
        pass
    wire.close()
    theirs.close()
    assert open_descriptors() == before


@BOUNDED
@given(st.data())
def test_frames(data: st.DataObject) -> None:
    """The bus's reader gives frames, or says that it is not the protocol; it keeps no more than one message's bound."""
    frames, limit = Frames(64), 64
    sent = data.draw(several(VALUES.map(lambda value: encoded({"v": value}))))
    with contextlib.suppress(WireError):
        for piece in data.draw(pieces(sent)):
            assert all(len(frame) <= limit for frame in frames.feed(piece))


OPS = ["on", "off", "values", "broadcast", "send", "request", "answer", "forget", "publish"]
OPS_OF_BRIDGE = ["say", "retain", "synced", "state", "lease"]
BUS = messages(
    {
        "op": st.sampled_from(OPS + OPS_OF_BRIDGE),
        "topic": st.sampled_from(["a", "b", "c"]),
        "to": st.integers(0, 3),
        "key": st.sampled_from(["k", "l"]),
        "number": st.integers(0, 3),
        "version": st.integers(0, 3),
        "host": st.sampled_from(["h", ""]),
        "data": VALUES,
        "value": VALUES,
        "error": st.text(max_size=5),
    }
).map(lambda message: json.dumps(message).encode())


@BOUNDED
@given(st.lists(st.tuples(st.sampled_from([1, 2, BRIDGE]), st.one_of(BUS, broken(BUS))), max_size=20))
def test_the_bus(said: list[tuple[int, bytes]]) -> None:
    """Whatever two workers and the bridge say, the router takes it or calls it broken, and what it passes on to another
    is a message."""
    router = Router(Table())
    members = (1, 2, BRIDGE)
    for member in members:
        router.join(member)
    for member, frame in said:
        with contextlib.suppress(Broken):
            router.take(member, frame.replace(b"\0", b""))
    for member in members:
        while (frames := router.next(member)) is not None:
            for frame in frames.rstrip(b"\0").split(b"\0"):
                assert isinstance(json.loads(frame), dict)


HEARD = messages(
    {
        "event": EVENTS,
        "worker": st.integers(1, 3),
        "pid": st.integers(1, 1 << 22),
        "status": st.integers(0, 65535),
        "reason": st.text(TEXT, max_size=100),
        "traceback": st.text(TEXT, max_size=100),
        "what": st.text(TEXT, max_size=10),
        "cut": st.integers(0, 9),
    }
)


@BOUNDED
@given(HEARD)
def test_what_a_worker_says_to_the_master(message: dict[str, Any]) -> None:
    """It is understood, ignored, or a broken channel; what is kept of it is short, and of one worker alone."""
    context: Any = SimpleNamespace(events=[], runtime=Path("/nonexistent"), keeping=None, poll=None, name="x")
    workers = Workers.__new__(Workers)
    workers.context, workers.ledger = context, Ledger({}, cluster=Cluster())
    body = Body(1, 1, 0, command=False)
    with contextlib.suppress(WireError):
        workers._heard(body, message)
    assert all(event.worker == 1 for event in context.events)
    assert len(json.dumps([repr(event) for event in context.events])) < 20_000
    for text in (*(getattr(event, "reason", "") for event in context.events), body.awaits, body.traceback):
        assert fields.printable(text) == text == text.encode().decode(), "systemd and a terminal are told it"
    assert len(body.traceback) <= fields.TRACEBACK and len(body.awaits) <= 200
    assert all(type(count) is int and count >= 0 for count in body.drained.values())


SAID_BY_ZYGOTES = messages(
    {
        "event": st.sampled_from(["up", "failed", "twin", "forked", "exited", "fork-failed", "listed"]),
        "worker": st.integers(1, 3),
        "pid": st.integers(1, 1 << 22),
        "status": st.integers(0, 65535),
        "protocol": st.integers(0, 3),
        "mode": st.sampled_from(["fork", "spawn"]),
        "why": st.lists(st.text(TEXT, max_size=300), max_size=30),
        "reason": st.text(TEXT, max_size=100),
        "traceback": st.text(TEXT, max_size=100),
        "token": st.sampled_from(["0", "1"]),
    }
)


@BOUNDED
@given(SAID_BY_ZYGOTES, st.sampled_from(["zygote", "twin"]), st.lists(st.booleans(), max_size=2))
def test_what_a_zygote_says_to_the_master(message: dict[str, Any], kind: str, sent: list[bool]) -> None:
    """The application's import may have said it: it is understood, ignored, or a broken channel. What it says of its
    generation is short, a process is one only by the kernel's word, and no descriptor is left."""
    before = open_descriptors()
    kept: dict[str, int] = {}
    context: Any = SimpleNamespace(
        events=[],
        keeping=SimpleNamespace(keep=kept.__setitem__),
        poll=Poll[Any](),
        slots=SimpleNamespace(total=4),
        foreground=True,
    )
    ledger = Ledger({}, cluster=Cluster(), releases={1: Release(Settings("x", app="hello:app"), {})})
    workers = Workers.__new__(Workers)
    workers.context, workers.ledger, workers.others = context, ledger, None
    workers.bodies = {1: Body(1, 1, 0, command=False), 2: Body(2, 1, 1, command=False, pidfd=-1)}
    workers.reports, workers.last_words = {}, {}
    zygotes = Zygotes(context, ledger, workers._on_zygote)
    zygotes.twins[1] = Zygote(1, Any, token="0")  # type: ignore[arg-type]
    fds = [os.pidfd_open(os.getpid()) if process else os.open("/dev/null", os.O_RDONLY) for process in sent]
    with contextlib.suppress(WireError):
        zygotes._heard(Zygote(1, Any), kind, message, fds)  # type: ignore[arg-type]
    assert len(repr(context.events)) < 20_000
    assert all(pidfd.pid_of(fd) == os.getpid() for fd in kept.values())
    release = ledger.releases[1]
    assert len(repr([release.mode, release.why, release.interface, release.engine, release.python])) < 40_000
    assert len(release.reason) <= fields.TRACEBACK and ledger.cluster == Cluster()
    for fd in kept.values():
        os.close(fd)
    context.poll.close()
    assert open_descriptors() == before


@BOUNDED
@given(
    messages(
        {
            "event": st.sampled_from(["done", "failed", "begun"]),
            "result": VALUES,
            "reason": st.text(TEXT, max_size=100),
            "traceback": st.text(TEXT, max_size=100),
        }
    )
)
def test_what_a_run_of_a_task_says_to_the_master(message: dict[str, Any]) -> None:
    """Its result, its failure, or nothing; at most one, of itself, and short in what is told."""
    state, _ = step(Model(), Situated(1, {"users": Plan("hello:count")}, False, 5.0), 0.0)
    state, (start,) = step(state, TaskAsked("users"), 0.0)
    assert isinstance(start, Start)
    tasks = Tasks.__new__(Tasks)
    tasks.context, tasks.ledger = SimpleNamespace(foreground=True), Ledger({}, tasks=state)  # type: ignore[assignment]
    tasks.events = deque()
    with socket.socket() as sock, contextlib.suppress(WireError):
        tasks._heard(Run(start.number, 1, sock), message)
    assert len(tasks.events) <= 1 and len(repr(tasks.events)) < 10_000
    assert all(isinstance(event, Said) and event.number == start.number for event in tasks.events)


CALLS = messages(
    {
        "method": st.sampled_from([*(f"io.clusterd.{name}" for name in METHODS), "org.varlink.service.GetInfo", "x.y"]),
        "parameters": messages(
            {"workers": st.text(max_size=5), "interface": st.text(max_size=9), "environment": VALUES}
        ),
        "more": st.booleans(),
        "oneway": st.booleans(),
    }
).map(encoded)


@pytest.fixture(scope="module")
def control() -> Any:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"\0clusterd-fuzz-{os.getpid()}")
    sock.listen()
    made = Control(sock, Poll[Any]())
    yield made
    made.close()


@BOUNDED
@given(data=st.data())
def test_the_control_socket(control: Control, data: st.DataObject) -> None:
    """Whatever one client sends, another is answered as ever, and no descriptor is left."""
    before = open_descriptors()

    def connected() -> tuple[socket.socket, Any]:
        client = socket.socket(socket.AF_UNIX)
        client.connect(control.sock.getsockname())
        return client, control.accept(0.0)

    client, server = connected()
    sent = data.draw(st.one_of(st.binary(max_size=200), st.lists(broken(CALLS), max_size=MAX_CALLS + 2).map(b"".join)))
    for piece in data.draw(pieces(sent)):
        client.sendall(piece)
        for call in server.read(1.0):
            assert call.method in METHODS and isinstance(call.parameters, dict)
            call.reply()
        if server.closed:
            break
    other, their = connected()
    other.sendall(encoded({"method": "org.varlink.service.GetInfo"}))
    assert their.read(1.0) == [] and b'"product":"clusterd"' in other.recv(1 << 16)
    for each in (server, their):
        each.close()
    for each in (client, other):
        each.close()
    assert open_descriptors() == before


@BOUNDED
@given(st.one_of(st.binary(max_size=5000), broken(st.just(b"READY=1\nSTATUS=\xc3\xa9\nMAINPID=1\nWATCHDOG=1"))))
def test_notify_datagrams(data: bytes) -> None:
    """A datagram is lines with a name each, or nothing; the next one is read as ever, and descriptors are closed."""
    before = open_descriptors()
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified = Notified(receiver)
    socket.send_fds(sender, [data or b"\n"], [0, 1])
    sender.send(b"STATUS=after")
    found = []
    while (notice := notified.receive(peek=True)) is not None:
        assert all(name and "\n" not in name + text for name, text in notice.fields.items())
        found.append(notice.fields)
        notified.consume()
    assert found[-1] == {"STATUS": "after"}
    notified.sock.close()
    sender.close()
    assert open_descriptors() == before


@BOUNDED
@given(st.binary(min_size=64, max_size=64))
def test_the_scoreboard(written: bytes) -> None:
    """Whatever a worker writes on its page are numbers to who reads it."""
    fd = board.create()
    os.pwrite(fd, written, 0)
    page = board.read(fd)
    os.close(fd)
    if page is not None:
        assert page.beat >= 0
        assert all(v is None or 0 <= v < 1 << 64 for v in vars(page.figures).values())


FILE = b"""app = "hello:app"
listen = ["127.0.0.1:8000", { path = "/run/x.sock", mode = "0660" }]
workers = 2
[env]
A = "b"
[reload]
drain-timeout = "30s"
surge = 1
[health]
watchdog = "5s"
[recycle]
max-memory = "1GiB"
[task.users]
call = "hello:count"
every = "10s"
"""
LINES = st.builds(
    lambda key, value: f"{key.rpartition('.')[2]} = {value}\n",
    st.sampled_from(sorted(TABLE)),
    st.sampled_from(
        [
            "1",
            "-1",
            "true",
            '""',
            '"x"',
            '"5s"',
            "[]",
            "[1]",
            "{}",
            '"%n"',
            "1e400",
            "nan",
            "1979-05-27",
            '"\\u0000"',
            "1" * 5000,
            "0x" + "f" * 5000,
        ]
    ),
)
TEXTS = st.one_of(
    st.binary(max_size=200),
    broken(st.just(FILE)),
    st.lists(LINES, max_size=4).map(lambda lines: "".join(dict.fromkeys(lines)).encode() + FILE),
    st.builds(
        lambda head, lines: FILE + f"[{head}]\n".encode() + "".join(dict.fromkeys(lines)).encode(),
        st.sampled_from(sorted({k.partition(".")[0] for k in TABLE if "." in k})),
        st.lists(LINES, max_size=4),
    ),
)


@BOUNDED
@given(text=TEXTS)
def test_the_file(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Any file is Settings, or problems that each name the file, what was found and what was expected."""
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(text)
    try:
        load(file)
    except Invalid as e:
        assert e.problems
        for line in str(e).splitlines():
            assert re.fullmatch(rf"{re.escape(str(file))}: (.+: )?found .+, expected .+", line), line


@BOUNDED
@given(
    st.one_of(
        st.text(max_size=200),
        broken(st.just(b'A=b\nC="d\\"e" \n# x\nexport F=\'g\'\n')).map(lambda b: b.decode("latin-1")),
    )
)
def test_the_environment_file(text: str) -> None:
    """Variables, or the line that is wrong."""
    try:
        assert all("\0" not in name + value for name, value in parse_environment(text).items())
    except EnvironmentFileError as e:
        assert 1 <= e.line <= text.count("\n") + 2


GUNICORN = b"bind = '0.0.0.0:8000'\nworkers = 2 * 3 + 1\nimport os\nraw_env = ['A=b', os.environ['X']]\n"


@BOUNDED
@given(st.one_of(st.text(max_size=200), broken(st.just(GUNICORN)).map(lambda b: b.decode("latin-1"))))
def test_the_file_of_gunicorn(text: str) -> None:
    """It is read without being run, or refused as no Python."""
    with contextlib.suppress(SyntaxError, ValueError):
        reading.read(text, "gunicorn.conf.py")


WORDS = st.one_of(
    st.sampled_from(
        [
            "--help",
            "--json",
            "--",
            "-",
            "",
            "hello",
            "../x",
            "--host",
            "a",
            "1",
            "+1",
            "-1",
            "--runtime",
            "/x",
            "\0",
            "é",
        ]
    ),
    st.text(max_size=12),
)
SAFE = ["status", "list", "check", "scale", "upgrade", "send", "listen", "task", "reload", "rollback", "try", "profile"]


@settings(BOUNDED, max_examples=80)
@given(command=st.sampled_from(SAFE), words=st.lists(WORDS, max_size=4))
def test_the_command_line(command: str, words: list[str]) -> None:
    """Any arguments are answered by words and an exit status, never by a traceback."""
    if any(word.startswith(("-H", "--ho")) for word in words):
        return  # ssh is another program
    done = CliRunner().invoke(clusterd, [command, *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), (command, words, done.exception)
    assert "Traceback" not in done.output


def test_toml_is_what_it_is_taken_for() -> None:
    """The file that is fuzzed is a valid one."""
    assert tomllib.loads(FILE.decode())["workers"] == 2
