"""The keeper with real processes: masters die in every way, and what it holds stays."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.shell import pidfd
from tests.patience import HANG
from tests.shell.waiting import Spawn, line, readable

FAKE = str(Path(__file__).with_name("fake_master.py"))
RUN = """
import json, sys
from clusterd import keeper
keeper.WITHIN = 1000  # of them, however long each takes here
options = json.loads(sys.argv[1])
sys.exit(keeper.keep([sys.executable, *options["launch"]], options["store"], foreground=options["foreground"],
              app="test", hang=options["hang"]))
"""

Keep = Callable[..., "Kept"]


class Kept:
    """A keeper, and what its masters tell."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.pids: dict[int, int] = {}

    def told(self) -> dict[str, Any]:
        """The next thing a master tells."""
        said: dict[str, Any] = json.loads(line(self.child.stdout))
        for key in ("pid", "child", "successor"):
            self.watch(said.get(key))
        return said

    def expect(self, key: str) -> dict[str, Any]:
        """The next thing told that has `key`."""
        while key not in (said := self.told()):
            pass
        return said

    def watch(self, pid: int | None) -> None:
        if pid is not None and pid not in self.pids:
            with contextlib.suppress(ProcessLookupError):
                self.pids[pid] = pidfd.open(pid)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        assert pidfd.send(self.pids[pid], number)

    def gone(self, pid: int) -> bool:
        return readable(self.pids[pid])

    def status(self) -> int:
        assert self.child.wait(HANG) is not None
        return self.child.returncode

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        for fd in self.pids.values():
            pidfd.send(fd, signal.SIGKILL)
            os.close(fd)


@pytest.fixture
def keep(python: Spawn) -> Iterator[Keep]:
    """Start a keeper whose masters are FAKE with these arguments."""
    made: list[Kept] = []

    def begin(
        *mode: str, store: dict[str, int] | None = None, foreground: bool = False, hang: float = 60.0, **options: Any
    ) -> Kept:
        given = {"launch": [FAKE, *mode], "store": store or {}, "foreground": foreground, "hang": hang}
        fds = list((store or {}).values())
        made.append(Kept(python(RUN, json.dumps(given), pass_fds=fds, **options)))
        return made[-1]

    yield begin
    for each in made:
        each.close()


@pytest.fixture
def slots() -> Iterator[dict[str, int]]:
    """Twenty descriptors under slots' names."""
    with contextlib.ExitStack() as stack:
        yield {f"slot.0.{i}": stack.enter_context(socket.socket()).fileno() for i in range(20)}


def inodes(store: dict[str, int]) -> dict[str, int]:
    return {name: os.fstat(fd).st_ino for name, fd in store.items()}


def test_masters_killed_keep_everything(keep: Keep, slots: dict[str, int]) -> None:
    """Five masters are SIGKILLed one after the other: each next one gets the same sockets, and what the first kept."""
    kept = keep("serve", store=slots)
    for start in range(1, 6):
        said = kept.told()
        assert said["start"] == start and said["slots"] == inodes(slots)
        assert said["note"] == (None if start == 1 else "from master 1")
        kept.expect("ready")
        kept.kill(said["pid"])
    last = kept.expect("ready")
    kept.kill(last["pid"], signal.SIGTERM)
    assert kept.status() == 7


def test_hundreds_of_descriptors(keep: Keep) -> None:
    """More descriptors than one message may carry arrive, each under its name."""
    with contextlib.ExitStack() as stack:
        store = {f"slot.0.{i}": stack.enter_context(socket.socket()).fileno() for i in range(450)}
        kept = keep("bye", "0", store=store)
        assert kept.told()["slots"] == inodes(store)
        assert kept.status() == 0


@pytest.mark.parametrize("status", [0, 5])
def test_bye_ends_it(keep: Keep, status: int) -> None:
    """A master that says bye takes the keeper with it, with the status it said, even at the first start."""
    kept = keep("bye", str(status))
    assert kept.told()["start"] == 1
    assert kept.status() == status


def test_first_start_gives_up(keep: Keep) -> None:
    """When every master crashes before one was ready, the start fails after a few attempts."""
    kept = keep("crash", stderr=subprocess.PIPE)
    assert kept.status() == 1
    assert kept.child.stderr is not None and kept.child.stdout is not None
    assert len(kept.child.stdout.read().splitlines()) == 6
    assert b"exited with status 1: giving up" in kept.child.stderr.read()


def test_missing_program_gives_up(python: Spawn) -> None:
    """A master that cannot even be started is an attempt like any other, and is named."""
    text = "import sys; from clusterd.keeper import keep; sys.exit(keep(['/no/such/master'], {}, foreground=True))"
    child = python(text, stderr=subprocess.PIPE)
    _, told = child.communicate()
    assert child.returncode == 1 and b"could not be started" in told and b"/no/such/master" in told


def test_hanging_master_is_killed(keep: Keep) -> None:
    """A stopped master is killed once its heartbeat has been the same for long, and another takes over."""
    kept = keep("serve", hang=5.0)
    first = kept.expect("ready")["pid"]
    kept.kill(first, signal.SIGSTOP)
    assert kept.told()["pid"] != first and kept.gone(first)
    kept.expect("ready")


def test_master_without_heartbeat_is_killed(keep: Keep) -> None:
    """A master whose loop does not turn is killed although the process lives."""
    kept = keep("deaf", hang=5.0)
    assert kept.expect("ready")["pid"] != kept.expect("ready")["pid"]


def orphaned(kept: Kept) -> tuple[int, int]:
    """The child that the first master has left, which is the keeper's now; and the second master."""
    first = kept.expect("ready")["pid"]
    kept.kill(first, signal.SIGUSR1)
    child = kept.expect("child")["child"]
    kept.kill(first)
    return child, kept.expect("ready")["pid"]


def test_orphans_status_is_told(keep: Keep) -> None:
    """A dead master's child becomes the keeper's: its end is told to the master of that time, and to each later one."""
    kept = keep("serve")
    child, second = orphaned(kept)
    kept.kill(child, signal.SIGTERM)
    said = kept.expect("event")
    assert (said["event"], said["about"], said["status"]) == ("reaped", child, int(signal.SIGTERM))
    kept.kill(second)
    assert [child, int(signal.SIGTERM)] in kept.expect("start")["reaped"]


def test_last_words_of_a_master(keep: Keep) -> None:
    """What it had kept reaches the next one, also when the keeper, which was late, had a death to tell it first."""
    kept = keep("serve")
    orphan, second = orphaned(kept)
    kept.child.send_signal(signal.SIGSTOP)
    kept.kill(second, signal.SIGUSR2)
    kept.expect("signal")
    for pid in (orphan, second):
        kept.kill(pid)
        assert kept.gone(pid)
    kept.child.send_signal(signal.SIGCONT)
    said = kept.expect("start")
    assert list(said["slots"]) == ["slot.8.0", "slot.8.1", "slot.8.2"] and said["note"] == "from master 1"
    assert [orphan, int(signal.SIGKILL)] in said["reaped"]


def test_signals_are_passed_on(keep: Keep) -> None:
    """What the keeper is told it tells the master; SIGTERM ends both."""
    kept = keep("serve", foreground=True)
    kept.expect("ready")
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM):
        kept.child.send_signal(number)
        assert kept.expect("signal")["signal"] == number.name
    assert kept.status() == 7


def test_ctrl_c_arrives_once(keep: Keep) -> None:
    """In the foreground the terminal's Ctrl-C reaches the keeper alone, and the master through it, exactly once."""
    kept = keep("serve", foreground=True)
    assert kept.told()["session"] is True
    kept.expect("ready")
    os.killpg(kept.child.pid, signal.SIGINT)
    assert kept.expect("signal")["signal"] == "SIGINT"
    assert kept.status() == 7


def test_closed_terminal_stops(keep: Keep) -> None:
    """SIGHUP from a terminal that is gone is a stop, not a reload."""
    ours, theirs = pty.openpty()
    kept = keep("serve", foreground=True, stdin=theirs, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(theirs)
    kept.expect("ready")
    os.close(ours)
    assert kept.expect("signal")["signal"] == "SIGTERM"
    assert kept.status() == 7


def test_early_stop_is_not_lost(keep: Keep) -> None:
    """A SIGTERM that comes before the master can take it waits until it can."""
    kept = keep("early")
    said = kept.expect("early")
    kept.kill(said["pid"], signal.SIGTERM)
    assert kept.expect("signal")["signal"] == "SIGTERM"
    assert kept.status() == 7


def test_stop_while_no_master_lives(keep: Keep) -> None:
    """Masters that die before they say a word are followed after a growing delay, however long their interpreter
    takes to start; a SIGTERM meanwhile is told to the next one, which is started at once for it.
    """
    kept = keep("flaky", "3", foreground=True, stderr=subprocess.PIPE)
    for delay in ("", " in 0.1 s", " in 0.2 s"):
        assert line(kept.child.stderr).endswith(f"exited with status 1: starting another{delay}")
    kept.child.send_signal(signal.SIGTERM)
    assert kept.expect("signal")["signal"] == "SIGTERM"
    assert kept.status() == 7


def test_master_names_itself_main(keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd is told of each master as the main process; what was meant for the keeper's is not passed on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        for name, value in {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_PID": "1", "LISTEN_PID": "1"}.items():
            monkeypatch.setenv(name, value)
        kept = keep("serve")
        said = kept.told()
        assert said["environment"] == []
        assert systemd.recv(100).decode() == f"MAINPID={said['pid']}"
        kept.expect("ready")
        kept.kill(said["pid"])
        assert kept.expect("start")["start"] == 2


def test_keeper_dies_too(keep: Keep, slots: dict[str, int]) -> None:
    """A master whose keeper is killed starts another, which holds the same and starts the next master."""
    kept = keep("serve", "succeed", store=slots)
    first = kept.expect("ready")["pid"]
    keeper = kept.child.pid
    for _ in range(2):
        os.kill(keeper, signal.SIGKILL)
        keeper = kept.expect("successor")["successor"]
    kept.kill(first)
    said = kept.told()
    assert said["slots"].pop("slot.9.9"), "what was kept right after the hand-over"
    assert said["start"] == 2 and said["slots"] == inodes(slots) and said["note"] == "from master 1"
    second = kept.expect("ready")["pid"]
    kept.kill(second, signal.SIGTERM)
    assert kept.expect("signal")["signal"] == "SIGTERM"
    assert kept.gone(second) and kept.gone(keeper)


def test_usage(python: Spawn) -> None:
    """Started by a person it says what it is for; with a master that does not hand over, it gives up."""
    child = python("import sys; from clusterd.keeper import main; sys.exit(main(['--help']))", stderr=subprocess.PIPE)
    assert b"what a master runs" in child.communicate()[1] and child.returncode == 2
    ours, theirs = socket.socketpair()
    text = "import sys; from clusterd.keeper import main; sys.exit(main(['--succeed', sys.argv[1]]))"
    child = python(text, str(theirs.fileno()), stderr=subprocess.PIPE, pass_fds=[theirs.fileno()])
    theirs.close()
    ours.close()
    assert b"did not hand over" in child.communicate()[1] and child.returncode == 1
