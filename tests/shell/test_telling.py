"""What systemd and the journal are told, and what workers tell: notify, notified, journal, messages."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.shell import journal as journal_module
from clusterd.shell import messages
from clusterd.shell.journal import Journal
from clusterd.shell.messages import MESSAGES, Priority
from clusterd.shell.notified import Notified
from clusterd.shell.notify import Notifier
from tests.lacking import lacking
from tests.patience import HANG
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


def test_record_to_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal gets message id, level, identifier and the fields that are set, and the text whole."""
    from systemd import journal

    sent: dict[str, object] = {}
    monkeypatch.setattr(journal, "send", lambda text, **fields: sent.update(fields, MESSAGE=text))
    Journal("hello", native=True).record(messages.WORKER_DIED, "died\nTraceback", worker=3, slot=None, generation=2)
    assert sent["MESSAGE"] == "died\nTraceback" and sent["MESSAGE_ID"] == messages.WORKER_DIED.id
    assert sent["PRIORITY"] == "4" and sent["SYSLOG_IDENTIFIER"] == "clusterd" and sent["CLUSTERD_APP"] == "hello"
    assert sent["CLUSTERD_WORKER"] == "3" and sent["CLUSTERD_GENERATION"] == "2" and "CLUSTERD_SLOT" not in sent
    assert sent["CODE_FUNC"] == "test_record_to_the_journal"


def test_journald_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds its queue full costs records, not the master; how many is told with the next that is taken."""
    from systemd import journal

    sent: list[tuple[str, dict[str, object]]] = []

    def full(text: str, **fields: object) -> None:
        raise BlockingIOError

    told = Journal("hello", native=True)
    monkeypatch.setattr(journal, "send", full)
    told.record(messages.STARTED, "lost")
    told.record(messages.STARTED, "lost too")
    monkeypatch.setattr(journal, "send", lambda text, **fields: sent.append((text, fields)))
    told.record(messages.STARTED, "back")
    told.record(messages.STARTED, "and on")
    assert [text for text, _ in sent] == ["2 records could not be told: journald took none", "back", "and on"]
    assert sent[0][1]["MESSAGE_ID"] == messages.JOURNAL_FULL.id and sent[0][1]["CLUSTERD_APP"] == "hello"


def test_room_in_a_queue(tmp_path: Path) -> None:
    """A socket nobody reads from has room until its queue is full, and again after a read. Nobody there: no wait."""
    path = str(tmp_path / "journal")
    assert journal_module.has_room(path)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        journald.bind(path)
        sender.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while journal_module.has_room(path):
                sender.sendto(b"x", path)
                sent += 1
            sender.sendto(b"x", path)
        assert sent > 0
        journald.recv(1)
        assert journal_module.has_room(path)


def test_stream_without_journal() -> None:
    """A worker's output goes where ours goes, when there is no journal or it cannot be reached."""
    for native in (False, True):
        if native and os.path.exists("/run/systemd/journal/stdout"):
            continue
        fd = Journal("hello", native=native).stream("hello/3", Priority.INFO)
        assert os.path.sameopenfile(fd, 2) and not os.get_inheritable(fd)
        os.close(fd)
