"""Two clusters as on two hosts, and a Redis between them: what is said to everybody is heard on both."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clusterd.master.bridging import PATIENCE
from clusterd.shell import client
from clusterd.worker.frames import encode
from clusterd.worker.topics import MAX_DATA
from tests.patience import HANG
from tests.redises import Server, server
from tests.run.foreground import CLUSTERD
from tests.run.networks import Network
from tests.run.talking import Talking


class Host(Talking):
    """One of them: its file has the bus."""

    def __init__(self, bus: str | None, tasks: str = "", inside: Sequence[str] = ()) -> None:
        super().__init__(workers=2)
        self.bus = bus
        self.tasks = tasks
        self.inside = inside

    def configure(self) -> Path:
        file = super().configure()
        bus = f'bus = "{self.bus}"\n' if self.bus is not None else ""
        file.write_text(bus + file.read_text() + self.tasks)
        return file

    def start(self, argv: Sequence[str] | None = None, *, terminal: bool = False, wait: bool = True) -> Host:
        usual = [*CLUSTERD, "run", str(self.configure()), "--runtime", str(self.runtime)]
        super().start([*self.inside, *usual] if argv is None else argv, terminal=terminal, wait=wait)
        return self

    def task(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.status().get("tasks") or [{"elsewhere": "unknown"}]
        return found[0]

    def problem(self) -> str | None:
        found: str | None = (self.status().get("bus") or {"problem": "not there"})["problem"]
        return found

    def joined(self) -> None:
        self.wait_for("its bridge to join", lambda: self.problem() is None)

    def has(self, key: str, value: object) -> None:
        for worker in self.ids():
            self.wait_for(f"{key}", lambda w=worker: self.ask(w, "value", key) == value)

    def knows(self) -> None:
        """Where its task runs."""
        self.wait_for("it to know where tasks run", lambda: "does not tell" not in (self.task()["elsewhere"] or ""))

    def bridge(self) -> int:
        (found,) = [pid for pid in self.everything() if b"bridge" in words(pid)]
        return found


def words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as made:
        yield made


@pytest.fixture
def hosts(redis: Server) -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        a, b = (stack.enter_context(Host(redis.urls["tcp"])) for _ in range(2))
        for host in (a, b):
            host.start()
        for host in (a, b):
            host.joined()
        yield a, b


def test_two_hosts(hosts: tuple[Host, Host]) -> None:
    """Broadcasts of a worker and of `clusterd send` are heard on the other host once, values are had on both; what is
    said to one worker stays here."""
    a, b = hosts
    for n in range(3):
        a.ask(a.ids()[0], "broadcast", "t", n)
    expected = [[0, None], [1, None], [2, None]]
    for worker in b.ids():
        b.hears(worker, *expected)
    sent = a.clusterd_on("send", "t", '"ü"')
    assert sent.returncode == 0, sent.stderr
    for worker in b.ids():
        b.hears(worker, *expected, ["ü", None])
    first, second = a.ids()
    a.hears(first, ["ü", None])
    a.hears(second, [0, first], [1, first], [2, first], ["ü", None])

    a.ask(first, "publish", "users", {"n": 1})
    b.has("users", {"n": 1})
    b.ask(b.ids()[0], "publish", "users", 2)
    a.has("users", 2)
    assert b.reload()
    assert [b.ask(worker, "start") for worker in b.ids()] == [[2], [2]]


def test_the_redis_goes_away_and_comes_back(hosts: tuple[Host, Host], redis: Server) -> None:
    """No worker is lost, it is told once, what was published meanwhile is had everywhere; an empty one is filled."""
    a, b = hosts
    a.ask(a.ids()[0], "publish", "old", 1)
    b.has("old", 1)
    before = [host.ids() for host in hosts]
    redis.stop()
    for host in hosts:
        host.wait_for("it to be missed", lambda h=host: h.problem())
    a.ask(a.ids()[0], "broadcast", "t", "nobody else hears it")
    a.ask(a.ids()[0], "publish", "new", "from a")
    b.ask(b.ids()[0], "publish", "more", "from b")
    redis.start()
    for host in hosts:
        host.joined()
    for host in hosts:
        for key, value in (("old", 1), ("new", "from a"), ("more", "from b")):
            host.has(key, value)
    assert [host.ids() for host in hosts] == before
    a.ask(a.ids()[0], "broadcast", "t", "again")
    for worker in b.ids():
        b.hears(worker, ["again", None])
    for host in hosts:
        assert host.said().count("cannot be used") == 1
        assert host.said().count("' is back") == 1


def test_the_bridge_or_the_master_is_killed(hosts: tuple[Host, Host]) -> None:
    """A bridge that dies is started again, one whose master dies goes on; a value is had whenever it was published."""
    a, b = hosts
    worker = a.ids()[0]
    bridge = a.bridge()
    a.kill_master()
    a.ask(worker, "publish", "k", 1)
    b.has("k", 1)
    assert a.bridge() == bridge
    os.kill(bridge, signal.SIGKILL)
    a.ask(worker, "publish", "k", 2)
    b.has("k", 2)
    b.ask(b.ids()[0], "publish", "k", 3)
    a.has("k", 3)
    assert a.bridge() != bridge
    assert a.said().count(": another one is started") == a.said().count("the bridge killed by SIGKILL") == 1


def test_a_reload_begins_and_ends_it(redis: Server) -> None:
    """Without `bus` there is no bridge; what was published before there was one is had by the others then."""
    with Host(redis.urls["unix"]) as a, Host(None) as b:
        a.start()
        b.start()
        assert b.status()["bus"] is None
        b.ask(b.ids()[0], "publish", "k", [1])
        b.bus = a.bus
        b.configure()
        b.reload()
        a.has("k", [1])
        left = b.bridge()
        b.bus = None
        b.configure()
        b.reload()
        b.wait_for("the bridge to leave", lambda: not words(left))
        assert b.status()["bus"] is None


@pytest.mark.proof
def test_the_longest_message(hosts: tuple[Host, Host]) -> None:
    """It is carried, as it is to the workers of one host: the bridges live on, and so does what is said after it."""
    a, b = hosts
    bridges = [host.bridge() for host in hosts]
    longest = MAX_DATA - len(encode({"op": "broadcast", "topic": "long", "data": ""}))
    assert a.ask(a.ids()[0], "long", longest) is None
    a.ask(a.ids()[0], "broadcast", "t", "after")
    for worker in b.ids():
        b.hears(worker, [longest, None], ["after", None])
    assert [host.bridge() for host in hosts] == bridges


def test_a_redis_that_takes_nothing(redis: Server) -> None:
    """One that is full is away, and told once: it is not joined, found to refuse, and joined again."""
    with Host(redis.urls["tcp"]) as a:
        redis.ask("config", "set", "maxmemory", "1")
        a.start()
        a.wait_for("the reason", lambda: "maxmemory" in (a.problem() or ""))
        a.ask(a.ids()[0], "publish", "k", 1)
        redis.ask("config", "set", "maxmemory", "0")
        a.joined()
        assert a.said().count("cannot be used") == 1
        assert a.said().count("' is back") == 1


def test_what_is_no_value_is_left_there(redis: Server) -> None:
    """Whoever writes by hand what no master could have said ends no bridge."""
    with Host(redis.urls["tcp"]) as a:
        a.start()
        a.joined()
        bridge, name = a.bridge(), a.status()["name"]
        bad = {"nan": "NaN", "infinite": "1e999", "deep": "[" * 100_000, "edge": "[" * 500 + "]" * 500, "none": "{"}
        for key, raw in (*bad.items(), ("good", "1")):
            redis.ask("hset", f"clusterd:{{{name}}}:bus", key, raw)
        redis.ask("client", "kill", "type", "pubsub")
        a.has("good", 1)
        assert [a.ask(a.ids()[0], "value", key) for key in bad] == [None] * len(bad)
        assert a.bridge() == bridge


def test_listen_names_the_host(hosts: tuple[Host, Host]) -> None:
    """What other hosts say is shown with the name of the host."""
    a, b = hosts
    heard = client.call(b.control, "Listen", {"topic": "t"}, more=True, timeout=HANG)
    assert next(heard) == {}
    a.ask(a.ids()[0], "broadcast", "t", 1)
    assert next(heard)["message"] == {"topic": "t", "data": "1", "from": None, "host": os.uname().nodename}


NOTE = """


def note():
    import os, time
    name = os.uname().nodename
    with open(os.environ["NOTES"], "a") as f:
        f.write(f"{name} begins\\n")
    while os.path.exists(os.environ["NOTES"] + ".held"):
        time.sleep(0.01)
    with open(os.environ["NOTES"], "a") as f:
        f.write(f"{name} ends\\n")
    return name
"""
TASK = """
[task.note]
call = "hello:note"
every = "200ms"
publish = "note"
[env]
NOTES = "{notes}"
"""


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[Network, Server, Host, Host]]:
    """Two hosts, a and b, and a third with the Redis between them; both have the same task."""
    tasks = TASK.format(notes=tmp_path / "notes")
    with ExitStack() as stack:
        network = stack.enter_context(Network("a", "b"))
        redis = stack.enter_context(server(inside=network.inside(None)))
        a, b = (
            stack.enter_context(Host(f"redis://10.77.{i}.1:{redis.port}/0", tasks, network.inside(name)))
            for i, name in enumerate("ab", 1)
        )
        for host in (a, b):
            host.deploy("hello", NOTE)
            host.start()
            host.joined()
            host.knows()
        yield network, redis, a, b


@pytest.mark.proof
def test_a_task_runs_on_one_host(named: tuple[Network, Server, Host, Host], tmp_path: Path) -> None:
    """By the lease: the other says so, has its result, and takes over when the first one stops."""
    _, _, a, b = named
    assert (a.task()["elsewhere"], b.task()["elsewhere"]) == (None, "host a runs it")
    b.has("note", "a")
    refused = b.clusterd_on("task", "run", "note")
    assert refused.returncode == 8
    assert "task note: it does not run here: host a runs it" in refused.stderr
    assert a.process is not None
    a.process.send_signal(signal.SIGTERM)
    assert a.wait() == 0
    b.has("note", "b")
    lines = (tmp_path / "notes").read_text().splitlines()
    first = lines.index("b begins")
    # The last of a's runs may have been ended by its stop.
    begun, ended = (lines[:first].count(f"a {what}") for what in ("begins", "ends"))
    assert begun + ended == first and begun - ended in (0, 1)
    assert not any(line.startswith("a") for line in lines[first:])


@pytest.mark.proof
def test_a_run_outlives_the_reload_that_adds_the_bus(redis: Server, tmp_path: Path) -> None:
    """The bridge has its time to say that nobody else has the lease, however old the master is."""
    notes, held = tmp_path / "notes", tmp_path / "notes.held"
    with Host(None, TASK.format(notes=notes)) as a:
        held.touch()
        a.deploy("hello", NOTE)
        a.start()
        old = time.monotonic() + PATIENCE
        a.wait_for("a run that goes on", notes.exists)
        a.wait_for("the master to be old", lambda: time.monotonic() > old)
        a.bus = redis.urls["tcp"]
        a.configure()
        assert a.reload()
        a.joined()
        a.knows()
        held.unlink()
        a.wait_for("its end", lambda: a.task()["last"])
        assert a.task()["failures"] == 0 and notes.read_text().splitlines()[1].endswith(" ends")


@pytest.mark.proof
def test_a_run_that_is_due_outlives_its_host(redis: Server, tmp_path: Path) -> None:
    """What a timer asks of the host without the lease is refused once the other must have renewed that, and made there
    where the other is gone."""
    notes = tmp_path / "notes"
    tasks = TASK.format(notes=notes).replace('every = "200ms"\n', "")
    with Host(redis.urls["tcp"], tasks) as a, Host(redis.urls["tcp"], tasks) as b:
        for host in (a, b):
            host.deploy("hello", NOTE)
            host.start()
            host.knows()
        refused = b.clusterd_on("task", "run", "note", "--wait")
        assert refused.returncode == 8, refused.stderr
        assert "runs it: waiting until that is certain" in refused.stderr
        for pid in a.everything():
            with contextlib.suppress(ProcessLookupError):  # who is left without the others leaves by itself
                os.kill(pid, signal.SIGKILL)
        done = b.clusterd_on("task", "run", "note", "--wait")
        assert done.returncode == 0, done.stderr
        assert len(notes.read_text().splitlines()) == 2


@pytest.mark.proof
def test_a_host_that_is_cut_off(named: tuple[Network, Server, Host, Host], tmp_path: Path) -> None:
    """It serves on, ends its run before another host begins one, though its master dies, and is one of them again when
    the cable is back."""
    network, _, a, b = named
    held = tmp_path / "notes.held"
    held.touch()
    a.wait_for("a run that goes on", lambda: a.task()["run"])
    before = a.ids()
    network.cable("a", "down")
    a.ask(before[0], "publish", "cut", 1)
    a.wait_for("it to be missed", lambda: a.problem())
    a.kill_master()  # the next one is told how long the lease is good for, by the bridge
    b.wait_for("the other to begin", lambda: "b begins" in (tmp_path / "notes").read_text())
    assert a.task()["run"] is None and "lost the lease" in a.task()["last"]["reason"]
    assert a.ids() == before
    held.unlink()
    network.cable("a", "up")
    a.joined()
    b.has("cut", 1)
    a.wait_for("it to know who runs it", lambda: a.task()["elsewhere"] == "host b runs it")
    heard = client.call(b.control, "Listen", {"topic": "t"}, more=True, timeout=HANG)
    assert next(heard) == {}
    a.ask(before[0], "broadcast", "t", 1)
    assert next(heard)["message"]["host"] == "a"
    lines = (tmp_path / "notes").read_text().splitlines()
    assert lines.count("a begins") == lines.count("a ends") + 1  # the one that was ended
    assert "a begins" not in lines[lines.index("b begins") :]
