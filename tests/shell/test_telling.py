"""What systemd and the journal are told, and what workers tell: notify, notified, journal, messages."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.shell import journal as journal_module
from clusterd.shell import messages, notify
from clusterd.shell.journal import Journal
from clusterd.shell.messages import MESSAGES, Priority
from clusterd.shell.notified import Notified
from clusterd.shell.notify import Notifier
from clusterd.shell.poll import Poll
from tests.lacking import lacking
from tests.patience import HANG
from tests.records import receive
from tests.shell.waiting import readable


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def closed(notifier: Notifier) -> None:
    notifier._sd.socket.close()  # type: ignore[attr-defined]


def test_messages_to_systemd(systemd: socket.socket) -> None:
    """Each message has the form of sd_notify(3); text is UTF-8, one line, and short enough to arrive."""
    n = Notifier()
    n.ready("4/4 Arbeiter für «hello»,\n generation 3")
    n.status("x" * 9000)
    n.stopping()
    n.watchdog()
    n.main_pid(4711)
    n.extend(1.5)
    got = [systemd.recv(8192).decode() for _ in range(6)]
    closed(n)
    assert got[0] == "READY=1\nSTATUS=4/4 Arbeiter für «hello», generation 3"
    assert got[1] == "STATUS=" + "x" * 1000
    assert got[2:] == ["STOPPING=1", "WATCHDOG=1", "MAINPID=4711", "EXTEND_TIMEOUT_USEC=1500000"]


def test_a_systemd_that_has_no_room(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could not be told is told with what comes next, the newest of each; a stop takes READY back."""
    monkeypatch.setattr(notify, "_TIMEOUT", 0.01)
    n = Notifier()

    def filled() -> None:
        filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        filler.setblocking(False)
        with filler, contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"x", systemd.getsockname())

    def heard() -> list[str]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(systemd.recv(8192).decode())
        return [each for each in found if each != "x"]

    filled()
    n.ready("2/2 workers")
    n.status("1/2 workers")
    assert heard() == []
    n.watchdog()
    n.watchdog()
    assert heard() == ["READY=1\nSTATUS=1/2 workers\nWATCHDOG=1", "WATCHDOG=1"]
    filled()
    n.ready("2/2 workers")
    n.stopping()
    assert heard() == []
    n.watchdog()
    assert heard() == ["STATUS=2/2 workers\nSTOPPING=1\nWATCHDOG=1"]
    closed(n)


def test_what_systemd_would_not_take(systemd: socket.socket) -> None:
    """A status of what an application said, however odd, is no reason for it to miss that we are ready."""
    n = Notifier()
    n.ready("cannot read 'caf\udce9', \ud83d\0\x1b[8m\nor 'é'")
    assert systemd.recv(8192).decode() == "READY=1\nSTATUS=cannot read 'caf\\udce9', \\ud83d\\x00\\x1b[8m or 'é'"
    closed(n)


def test_fd_store(systemd: socket.socket) -> None:
    """A stored descriptor arrives beside its name, and stays whatever happens to it; it is removed by name."""
    n, (a, b) = Notifier(), socket.socketpair()
    assert n.store("slot.0.3", a.fileno())
    data, fds, _, _ = socket.recv_fds(systemd, 4096, 4)
    assert sorted(data.decode().split()) == ["FDNAME=slot.0.3", "FDPOLL=0", "FDSTORE=1"]
    assert os.fstat(fds[0]).st_ino == os.fstat(a.fileno()).st_ino
    assert n.unstore("slot.0.3")
    assert sorted(systemd.recv(4096).decode().split()) == ["FDNAME=slot.0.3", "FDSTOREREMOVE=1"]
    for name in ("", "a:b", "a\nb", "ä", "x" * 256):
        with pytest.raises(ValueError, match="cannot be a descriptor's name"):
            n.store(name, a.fileno())
    os.close(fds[0])
    a.close()
    b.close()
    closed(n)


def test_without_systemd() -> None:
    """Without NOTIFY_SOCKET nothing is sent, nothing raises, and the store says no."""
    n = Notifier()
    n.ready("x")
    n.watchdog()
    assert not n.active and not n.store("x", 0) and not n.unstore("x")


def test_worker_tells_its_state(tmp_path: Path) -> None:
    """A message comes with its sender's pid; peeked at it stays, consumed it is gone; the socket can be adopted."""
    path = str(tmp_path / "17")
    here = Notified.bind(path)
    text = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1\\nSTATUS=up=1\\nnoise\\n', sys.argv[1])"
    )
    child = subprocess.Popen([sys.executable, "-c", text, path])
    child.wait()
    assert readable(here.fileno())
    first = here.receive(peek=True)
    assert first is not None and first.fields == {"READY": "1", "STATUS": "up=1"} and first.pid == child.pid
    after = Notified.adopt(os.dup(here.fileno()))
    here.close(unlink=False)
    assert after.receive(peek=True) == first
    after.consume()
    assert after.receive(peek=True) is None and after.receive() is None
    after.close()
    assert not os.path.exists(path)


def test_barrier_waits_for_consumption(tmp_path: Path) -> None:
    """sd_notify_barrier() returns when the message is consumed, not peeked at: all before it has been acted on."""
    here = Notified.bind(str(tmp_path / "1"))
    r, w = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(tmp_path / "1"))
        sender.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w]))])
    os.close(w)
    notice = here.receive(peek=True)
    assert notice is not None and notice.fields == {"BARRIER": "1"}
    assert not readable(r, 0)
    here.consume()
    assert readable(r, 0)  # end of file: nobody has the pipe any more
    os.close(r)
    here.close()


@pytest.mark.parametrize("peek", [True, False])
def test_oversized_message_is_skipped(tmp_path: Path, peek: bool) -> None:
    """What is too long to be a message is thrown away; the next one is still heard."""
    here = Notified.bind(str(tmp_path / "1"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(tmp_path / "1"))
        sender.send(b"STATUS=" + b"x" * 5000)
        sender.send(b"READY=1\nSTATUS=\xff")
    notice = here.receive(peek=peek)
    assert notice is not None and notice.fields == {"READY": "1", "STATUS": "\ufffd"}
    here.close()


def test_systemd_notify_itself(tmp_path: Path) -> None:
    """The real systemd-notify is heard, and its barrier answered."""
    try:
        subprocess.run(["systemd-notify", "--version"], capture_output=True, check=True)
    except OSError:
        lacking("systemd-notify is not installed")
    here = Notified.bind(str(tmp_path / "1"))
    child = subprocess.Popen(
        ["systemd-notify", "--ready", "--status=fine"], env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "1")}
    )
    seen: dict[str, str] = {}
    while "BARRIER" not in seen:
        assert readable(here.fileno())
        notice = here.receive()
        assert notice is not None
        seen |= notice.fields
    assert child.wait(HANG) == 0 and seen["READY"] == "1" and seen["STATUS"] == "fine"
    here.close()


# the journal


def test_catalog_is_the_table(project: Path) -> None:
    """units/clusterd.catalog is written from the table of messages."""
    assert (project / "units/clusterd.catalog").read_text() == messages.catalog()


def test_message_ids() -> None:
    """Each message has an id of its own, in the form the journal searches for; the text names no unknown field."""
    ids = [m.id for m in MESSAGES.values()]
    assert len(set(ids)) == len(ids) >= 20
    for m in MESSAGES.values():
        assert len(m.id) == 32 and set(m.id) <= set("0123456789abcdef")
        fields = set((m.subject + m.text).split("@")[1::2])
        assert fields <= {f"CLUSTERD_{name}" for name in ("APP", "WORKER", "SLOT", "GENERATION", "TASK")}


def test_journalctl_takes_the_catalog(project: Path, tmp_path: Path) -> None:
    """journalctl compiles the catalog, and has an entry for each message."""
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    (directory / "clusterd.catalog").write_text(messages.catalog())
    try:
        subprocess.run(["journalctl", "--update-catalog", f"--root={tmp_path}"], check=True, capture_output=True)
    except OSError:
        lacking("journalctl is not installed")
    argv = ["journalctl", "--list-catalog", f"--root={tmp_path}"]
    found = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert {entry.split()[0] for entry in found.stdout.splitlines()} == {m.id for m in MESSAGES.values()}


def test_record_to_a_person(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a journal each line is one readable line on stderr."""
    Journal("hello", native=False).record(messages.WORKER_DIED, "worker 3 died\n  at once\n", worker=3)
    assert capfd.readouterr().err == "clusterd: worker 3 died\nclusterd:   at once\n"


def test_record_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe nobody reads costs lines, not the master; how many is told once it is read again."""
    r, w = os.pipe()
    monkeypatch.setattr(journal_module, "_STDERR", w)
    told = Journal("hello", native=False)
    while not told.lost:
        told.record(messages.STARTED, "x" * 1000)
    told.record(messages.STARTED, "lost too")
    assert told.lost == 2
    while readable(r, 0):
        os.read(r, 1 << 20)
    told.record(messages.STARTED, "back")
    assert os.read(r, 4096).decode() == "clusterd: (2 lines could not be written)\nclusterd: back\n"
    os.close(r)
    os.close(w)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket in the journal's place, which is read when the test reads it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(HANG)
        yield sock


def test_record_to_the_journal(journald: socket.socket) -> None:
    """The journal gets message id, level, identifier and the fields that are set, and the text whole."""
    told = Journal("hello", native=True, path=journald.getsockname())
    assert not told.unread
    told.record(messages.WORKER_DIED, "died\nTraceback", worker=3, slot=None, generation=2)
    assert told.unread
    sent = receive(journald)
    assert not told.unread
    assert sent["MESSAGE"] == "died\nTraceback" and sent["MESSAGE_ID"] == messages.WORKER_DIED.id
    assert sent["PRIORITY"] == "4" and sent["SYSLOG_IDENTIFIER"] == "clusterd" and sent["CLUSTERD_APP"] == "hello"
    assert sent["CLUSTERD_WORKER"] == "3" and sent["CLUSTERD_GENERATION"] == "2" and "CLUSTERD_SLOT" not in sent
    assert sent["CODE_FUNC"] == "test_record_to_the_journal" and sent["CODE_FILE"] == __file__
    told.record(messages.WORKER_DIED, "x" * (1 << 20), Priority.ERROR)
    sent = receive(journald)
    assert sent["MESSAGE"] == "x" * (1 << 20) and sent["PRIORITY"] == "3"
    told.close()


def texts(journald: socket.socket) -> Iterator[str]:
    """Of the records that are there."""
    while readable(journald.fileno(), 0):
        yield receive(journald)["MESSAGE"]


def test_a_journald_that_stands_still(journald: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for once, for a moment. What it does not take is kept, and told in order when it does."""
    monkeypatch.setattr(journal_module, "_PATIENCE", 1.0)
    poll: Poll[str] = Poll()
    told = Journal("hello", native=True, path=journald.getsockname())
    told.watch(poll, "journal")
    began, number = time.monotonic(), 0
    while len(poll) == 0:
        told.record(messages.STARTED, str(number))
        number += 1
    assert poll.wait(0) == []
    for _ in range(100):
        told.record(messages.STARTED, str(number))
        number += 1
    assert time.monotonic() - began < 50, "a second for each would be a hundred"
    heard: list[str] = []
    while len(heard) < number:
        assert readable(journald.fileno(), HANG)
        heard += texts(journald)
        for key, _ in poll.wait(0):
            assert key == "journal"
            told.flush()
    assert heard == [str(each) for each in range(number)] and len(poll) == 0 and (told.missing, told.lost) == (0, 0)
    told.close()
    poll.close()


def test_more_than_is_kept(journald: socket.socket) -> None:
    """Those that are told after a thousand are kept are lost; how many stands in their place."""
    told = Journal("hello", native=True, path=journald.getsockname())
    number = 0
    while told.missing < 2:
        told.record(messages.STARTED, str(number))
        number += 1
    heard = list(texts(journald))
    while len(heard) < number - 1:
        told.flush()
        heard += texts(journald)
    lost = f"2 records could not be told here: journald took none, and {journal_module.MOST} were kept already"
    assert heard == [*map(str, range(number - 2)), lost]
    told.record(messages.STARTED, "back")
    assert list(texts(journald)) == ["back"]
    told.close()


@pytest.mark.parametrize("reads", [True, False])
def test_at_the_end_there_is_a_second_more(
    journald: socket.socket, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """What is kept then is told if journald takes it, and waited for until it is read; no longer if it is not."""
    told = Journal("hello", native=True, path=journald.getsockname())
    number = 0
    while not told.kept:
        told.record(messages.STARTED, str(number))
        number += 1
    heard: list[str] = []
    reading = threading.Thread(target=lambda: heard.extend(receive(journald)["MESSAGE"] for _ in range(number)))
    if reads:
        monkeypatch.setattr(journal_module, "_LAST_PATIENCE", HANG)  # the reader may stand still for more than a second
        reading.start()
    began = time.monotonic()
    told.close()
    if reads:
        assert not readable(journald.fileno(), 0)
        reading.join(HANG)
        assert heard == [str(each) for each in range(number)]
    else:
        assert told.kept and 1 <= time.monotonic() - began < 30


def test_another_journald(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its socket is another one: records go there. There is none: they go to stderr, as what cannot be written does."""
    path = str(tmp_path / "journal")
    told = Journal("hello", native=True, path=path)
    told.record(messages.STARTED, "nobody")
    for name in ("one", "two"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
            journald.bind(path)
            told.record(messages.STARTED, name)
            assert list(texts(journald)) == [name]
            told.record(messages.STARTED, "half a pair: \ud800")
        os.unlink(path)
    told.record(messages.STARTED, "nobody again")
    told.close()
    said = capfd.readouterr().err.splitlines()
    assert said == ["clusterd: nobody", *["clusterd: half a pair: ?"] * 2, "clusterd: nobody again"]


def test_nobody_takes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No journald, and nobody who reads stderr: what is told is lost, and who tells goes on."""
    r, w = os.pipe()
    os.close(r)
    monkeypatch.setattr(journal_module, "_STDERR", w)
    told = Journal("hello", native=True, path=str(tmp_path / "journal"))
    for number in range(3):
        told.record(messages.STARTED, str(number))
        assert (told.kept, told.lost) == (0, number + 1)
    told.close()
    os.close(w)


def test_stream_without_journald() -> None:
    """A worker's output goes where ours goes while journald cannot be reached."""
    if os.path.exists("/run/systemd/journal/stdout"):
        pytest.skip("there is a journald")
    fd = Journal("hello", native=True).stream("hello/3", Priority.INFO)
    assert os.path.sameopenfile(fd, 2) and not os.get_inheritable(fd)
    os.close(fd)


def test_stream_into_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journald that is gone with its streams, ours too: a worker prints into nothing, and does not fail of it."""
    if os.path.exists("/run/systemd/journal/stdout"):
        pytest.skip("there is a journald")
    ours, journald = socket.socketpair()
    monkeypatch.setattr(journal_module, "_STDERR", ours.fileno())
    told = Journal("hello", native=True)
    fd = told.stream("hello/3")
    assert os.path.sameopenfile(fd, ours.fileno())
    os.close(fd)
    journald.close()
    fd = told.stream("hello/3")
    assert os.write(fd, b"a line\n") == 7 and not os.get_inheritable(fd)
    os.close(fd)
    ours.close()
