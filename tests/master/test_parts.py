"""The master's parts, each alone: what they tell systemd, whom the usher gets, what a receipt is about."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd import bridge
from clusterd.config.settings import Settings, Task, Tls
from clusterd.core.actions import Finish, Outcome, Tell, What
from clusterd.core.model import Boot, Cluster, Generation, Kind, Mode, Phase, Policy, Rollout, Worker
from clusterd.master import bridging, callers, tasks
from clusterd.master.keeping import Keeping
from clusterd.master.ledger import Ledger
from clusterd.master.performing import Performer
from clusterd.master.receipts import Receipt
from clusterd.master.releases import Release
from clusterd.master.telling import Telling
from clusterd.master.ushering import Ushering
from clusterd.shell import interface, messages, pidfd
from clusterd.shell.poll import Poll
from clusterd.worker.wire import Wire


class Anything:
    """Takes every call; remembers them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **_: self.calls.append((name, arguments))


@pytest.mark.parametrize(
    "mode,listeners", [(Mode.RELAY, [(0, 10), (1, 11)]), (Mode.REFUSE, [(0, 10), (1, 11), (0, 20)])]
)
def test_a_unix_socket_is_ushered_only_when_nobody_serves(mode: Mode, listeners: list[tuple[int, int]]) -> None:
    """It has one slot that all workers share: a usher for slot 0 would answer 503 to clients of those that serve."""
    groups = [SimpleNamespace(fds=[10, 11, 12]), SimpleNamespace(fds=[20])]
    ushering = Ushering(SimpleNamespace(slots=SimpleNamespace(groups=groups)), Ledger({}))  # type: ignore[arg-type]
    ushering.mode, ushering.slots = mode, (0, 1)
    assert ushering._listeners() == listeners


@pytest.mark.parametrize("serving", [True, False])
def test_a_tls_client_is_not_answered_in_plain_text(serving: bool) -> None:
    """Who expects TLS could not read a 503: the usher hangs up; by what serves, or else by what is to serve."""
    plain, encrypted = Settings("x"), Settings("x", tls=Tls("/a", "/b"))
    releases = {1: Release(encrypted, {}), 2: Release(plain, {})} if serving else {1: Release(encrypted, {})}
    ledger = Ledger({}, cluster=Cluster(current=1 if serving else None), releases=releases)
    assert Ushering(SimpleNamespace(), ledger).encrypted()  # type: ignore[arg-type]
    ledger.releases = {1: Release(plain, {}), 2: Release(encrypted, {})} if serving else {}
    assert not Ushering(SimpleNamespace(), ledger).encrypted()  # type: ignore[arg-type]


def finished(finish: Finish, cluster: Cluster) -> list[str]:
    """What systemd is told at the end of a rollout."""
    notifier = Anything()
    context = SimpleNamespace(notifier=notifier, keeping=SimpleNamespace(fds={}), journal=Anything())
    ledger = Ledger({}, cluster=cluster)
    ledger.add(Receipt(finish.number, finish.kind, finish.outcome, 1, 1, 0.1, "why"))
    telling, nobody = Telling(context, ledger), Anything()  # type: ignore[arg-type]
    workers: Any = SimpleNamespace(last_words={})
    Performer(context, ledger, nobody, workers, nobody, telling, nobody)._finish(finish)  # type: ignore[arg-type]
    return [name for name, _ in notifier.calls]


@pytest.mark.parametrize("kind", [Kind.START, Kind.RELOAD, Kind.ROLLBACK])
def test_systemd_is_told_the_end_of_every_reload(kind: Kind) -> None:
    """Also of one that began a failed start again: the unit would stay "reloading"."""
    assert finished(Finish(2, kind, Outcome.REFUSED, 1, "why"), Cluster(strict=False)) == ["ready"]


def test_a_superseded_reload_is_not_the_end() -> None:
    """Another is under way: the unit goes on reloading."""
    cluster = Cluster(rollout=Rollout(3, Kind.RELOAD, 3, 1, since=0.0))
    assert finished(Finish(2, Kind.RELOAD, Outcome.SUPERSEDED, 2, "by #3"), cluster) == []


def test_a_start_that_is_stopped_has_not_started() -> None:
    """READY=1 would make `systemctl start` succeed."""
    assert finished(Finish(1, Kind.START, Outcome.STOPPED, 1, "stop"), Cluster(stopping=True)) == []


def telling(cluster: Cluster | None = None) -> Telling:
    context: Any = SimpleNamespace(journal=Anything(), notifier=Anything())
    return Telling(context, Ledger({}, cluster=cluster or Cluster()))


def test_a_try_does_not_end_a_drain() -> None:
    """The counts of old workers go onto the receipt of the reload that replaced them, whatever is tried meanwhile."""
    told = telling()
    told.ledger.add(Receipt(2, Kind.RELOAD, Outcome.DONE, 2, 1, 0.1))
    told.ledger.add(Receipt(3, Kind.TRY, Outcome.DONE, 3, 1, 0.1))
    told.drained({"websockets": 3})
    assert told.all_drained() and not told.all_drained()
    assert told.ledger.receipts[2].websockets == 3 and told.ledger.receipts[2].drained
    assert told.ledger.receipts[3].websockets == 0


@pytest.mark.parametrize(
    ("reports", "cost"),
    [
        ([], "0 reset, 0 WebSockets closed 1012, "),
        ([{"cut": 2, "closed": 5}, {"websockets": 1}], "2 reset, 1 WebSockets closed 1012, "),
        ([{"cut": 2}, {"untold": 1}], "at least 2 reset, 0 WebSockets closed 1012, "),
        ([{"cut": 0}, {"untold": 1}], "resets not known, "),
    ],
)
def test_a_receipt_says_what_it_knows(reports: list[dict[str, int]], cost: str) -> None:
    """Nothing of what the drain cost as long as it goes on, and no figure that leaves somebody out."""
    told = telling()
    receipt = Receipt(2, Kind.RELOAD, Outcome.DONE, 2, 4, 0.1).write()
    told.ledger.add(receipt)
    assert receipt.text == "#2: 4/4 in 0.1 s, longest queue wait 0 ms"
    for report in reports:
        told.drained(report)
    assert told.all_drained()
    assert receipt.text == f"#2: 4/4 in 0.1 s, {cost}longest queue wait 0 ms"


def test_a_receipt_knows_nothing_of_an_older_crash() -> None:
    """The longest wait is that of this change: not of a worker that was lost before it began."""
    told = telling(Cluster(steered=(0,)))
    told.observe(100.0)
    worker = Worker(1, 0, 0, 1, since=0.0, phase=Phase.SERVING, accepting=True, ready_at=0.0)
    told.ledger.cluster = Cluster(steered=(0,), workers={1: worker})
    told.observe(109.0)
    told.tell(Tell(What.BEGUN, Kind.RELOAD, generation=2, number=2))
    assert told.finish(Finish(2, Kind.RELOAD, Outcome.DONE, 2)).gap == 0.0


def test_a_refused_try_takes_nothing_from_a_reload() -> None:
    """How long the reload under way has let clients wait is still on its receipt."""
    told = telling(Cluster(steered=(0,), rollout=Rollout(2, Kind.RELOAD, 2, 1, since=0.0)))
    told.observe(100.0)
    worker = Worker(1, 0, 0, 1, since=0.0, phase=Phase.SERVING, accepting=True, ready_at=0.0)
    told.ledger.cluster = replace(told.ledger.cluster, workers={1: worker})
    told.observe(100.5)
    told.finish(Finish(3, Kind.TRY, Outcome.REFUSED, 1, "#2 is under way"))
    told.ledger.cluster = replace(told.ledger.cluster, rollout=None)
    assert told.finish(Finish(2, Kind.RELOAD, Outcome.DONE, 2)).gap == 0.5


def test_the_last_receipt_is_of_what_ended_last() -> None:
    """Whatever its number: ten are kept, a reload that is returned later has one still."""
    ledger = Ledger({})
    for number in (1, *range(3, 14), 2, 13):
        ledger.add(Receipt(number, Kind.TRY, Outcome.REFUSED, 1, 1, 0.1))
    assert list(ledger.receipts) == [*range(5, 13), 2, 13] and ledger.last_receipt is ledger.receipts[13]
    assert list(Ledger.from_json(ledger.to_json()).receipts) == list(ledger.receipts)


def test_a_receipt_is_what_the_interface_says() -> None:
    """The Varlink type and its outcomes are those of the receipts that are sent."""
    text = interface.TEXT.partition("type Receipt (\n")[2].partition("\n)")[0]
    types = dict(line.strip().rstrip(",").split(": ", 1) for line in text.splitlines())
    assert list(types) == [field.name for field in fields(Receipt)]
    assert types["outcome"] == f"({', '.join(Outcome)})"


@dataclass
class Clock:
    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the tasks and of the bridge."""
    made = Clock()
    for module in (bridging, callers, tasks):
        monkeypatch.setattr(module, "time", made)
    return made


def test_a_run_outlives_the_reload_that_adds_the_bus(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """The new bridge has its time to say who has the lease, however old the master is; then the run is ended."""
    monkeypatch.setattr(bridging, "start_helper", lambda _: (_ for _ in ()).throw(FileNotFoundError(2, "no", "bridge")))
    context: Any = SimpleNamespace(keeping=SimpleNamespace(fds={}), journal=Anything())
    ledger = Ledger({}, cluster=Cluster(current=1), releases={1: Release(Settings("x"), {}, mode="fork")})
    bus: Any = Anything()
    part = bridging.Bridging(context, ledger, bus)
    part.advance()
    clock.now += 1000.0
    ledger.releases[1] = Release(Settings("x", bus="redis://127.0.0.1"), {}, mode="fork")
    part.advance()
    assert part.elsewhere() is not None and not part.lost()
    clock.now += bridging.PATIENCE / 2
    part.advance()
    assert not part.lost()
    clock.now += bridging.PATIENCE / 2
    part.advance()
    assert "another host may run it" in part.lost()


class Asking:
    """Who calls Run, as the master sees it."""

    def __init__(self, join: str | None) -> None:
        self.parameters = {"task": "note", "join": join}
        self.client = SimpleNamespace(closed=False)
        self.told: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}

    def progress(self, **told: Any) -> None:
        self.told.append(told)

    def reply(self, **told: Any) -> None:
        self.answer = told

    def error(self, name: str, **told: Any) -> None:
        self.answer = {"error": name, **told}


class Hosts:
    """The tasks of a host whose file has a bus, with a bridge that says what the test has it say."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.zygotes: Any = SimpleNamespace(zygotes={1: None}, fork=lambda *_: True)
        settings = Settings("x", bus="redis://127.0.0.1", task={"note": Task("hello:note")})
        generation = Generation(1, Policy(), 0.0, boot=Boot.UP)
        cluster = Cluster(current=1, generations={1: generation})
        ledger = Ledger({}, cluster=cluster, releases={1: Release(settings, {}, mode="fork")})
        context: Any = SimpleNamespace(keeping=SimpleNamespace(fds={}), journal=Anything())
        bus: Any = Anything()
        self.bridging = bridging.Bridging(context, ledger, bus)
        self.tasks = tasks.Tasks(context, ledger, self.zygotes, bus, self.bridging, lambda: None)
        self.begun: list[str] = []
        self.tasks._start = lambda name, *_: self.begun.append(name)  # type: ignore[method-assign]
        self.tasks.advance()

    def lease(self, held: bool) -> None:
        """The bridge has just asked the Redis."""
        self.bridging.on_state({"op": "lease", "held": held, "host": "a", "until": self.clock.now + bridge.SAFE})
        self.tasks.advance()

    def ask(self, join: str | None = "yes") -> Asking:
        asking: Any = Asking(join)
        self.tasks.run(asking)
        return asking

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.tasks.advance()


def test_the_bridge_and_the_master_agree_on_the_lease() -> None:
    """The master reckons by what the bridge asks the Redis for; in a process of its own, it is not imported."""
    assert (bridging.LEASE, bridging.SAFE) == (bridge.LEASE, bridge.SAFE)
    assert callers.UNCERTAIN > bridge.LEASE + 2 * bridge.RENEW


def test_a_run_is_refused_once_the_other_host_has_renewed_its_lease(clock: Clock) -> None:
    """Who waits is told what for; a lease that is seen held after one from before the call would be over has been
    renewed since. Who does not wait is told at once."""
    host = Hosts(clock)
    host.lease(held=False)
    assert host.ask(join=None).answer["outcome"] == "elsewhere"
    asking = host.ask()
    assert asking.told == [{"run": 0, "joined": False, "reason": "it does not run here: host a runs it"}]
    for _ in range(5):
        host.wait(bridge.RENEW)
        host.lease(held=False)
        assert not asking.answer
    host.wait(bridge.RENEW)
    assert not asking.answer
    host.lease(held=False)
    assert asking.answer["outcome"] == "elsewhere" and not host.begun


def test_a_run_is_made_by_the_host_that_takes_over(clock: Clock) -> None:
    """What was asked for while a lease lasted whose host was gone runs here when it has come to us, once."""
    host = Hosts(clock)
    host.lease(held=False)
    asking = host.ask()
    host.wait(25.0)
    host.lease(held=False)
    host.wait(5.0)
    assert not asking.answer and not host.begun
    host.lease(held=True)
    assert host.begun == ["note"]
    host.wait(1.0)
    assert host.begun == ["note"] and host.tasks.deadline() is not None


@pytest.mark.parametrize("hung_up", [True, False])
def test_a_lease_that_is_not_known(clock: Clock, hung_up: bool) -> None:
    """It is waited for, a minute; then it is said that it is not known. Who hangs up meanwhile wants no run."""
    host = Hosts(clock)
    asking = host.ask()
    assert "the bus does not tell" in asking.told[0]["reason"]
    host.wait(callers.UNCERTAIN - 1.0)
    assert not asking.answer and host.tasks.deadline() == clock.now + 1.0
    asking.client.closed = hung_up
    if hung_up:
        host.lease(held=True)
        assert not host.begun and host.tasks.deadline() is None
    else:
        host.wait(1.0)
        assert asking.answer["outcome"] == "failed" and "does not tell" in asking.answer["reason"]


def test_a_lease_that_is_told_late(clock: Clock) -> None:
    """The bridge found that it held it before it heard that it was to give it up: it has, since, and another host may
    have it. What it finds after it has been told again counts."""
    host = Hosts(clock)
    host.bridging.context.keeping.fds[bridging.PID] = -1
    found = {"op": "lease", "held": True, "host": "a", "until": clock.now + bridge.SAFE}
    host.bridging.advance()
    host.bridging.on_state(found)
    assert host.bridging.elsewhere() is None
    generation = host.bridging.ledger.cluster.generations[1]
    for boot in (Boot.LOST, Boot.UP):
        clock.now += 1.0
        host.bridging.ledger.cluster = Cluster(current=1, generations={1: replace(generation, boot=boot)})
        host.bridging.advance()
        assert host.bridging.elsewhere() is not None
        host.bridging.on_state(found)
    assert host.bridging.elsewhere() is not None
    host.bridging.on_state(found | {"until": clock.now + bridge.SAFE})
    assert host.bridging.elsewhere() is None


@contextmanager
def kept(*said: dict[str, Any]) -> Iterator[Keeping]:
    """What a master makes of what its keeper says first."""
    ours, theirs = socket.socketpair()
    keeper, poll = Wire(theirs), Poll[Any]()
    for message in said:
        keeper.send(message)
    keeping = Keeping(ours, poll)
    yield keeping
    keeping.wire.close()
    keeping.drop("state")
    keeper.close()
    poll.close()


def test_a_death_that_is_told_with_the_store() -> None:
    """The keeper reaps while the master still starts: what it says then comes in the same read as the store."""
    stored = {"event": "stored", "start": 2, "reaped": [[11, 0]]}
    with kept(stored, {"event": "reaped", "pid": 12, "status": 9}) as keeping:
        assert keeping.reaped == {11: 0, 12: 9}


def test_who_may_tell_how_it_died() -> None:
    """The keeper, for a while, of whoever has a number; not one that is lost, nor one that came later than the dead."""
    now = time.monotonic()
    with kept({"event": "stored", "start": 2}) as keeping:
        assert keeping.may_tell(12, now)
        assert not keeping.may_tell(None, now) and not keeping.may_tell(12, now - pidfd.STATUS_GRACE)
        keeping.lost = True
        assert not keeping.may_tell(12, now)
        keeping.lost, keeping.reaps = False, False
        assert not keeping.may_tell(12, now)


@pytest.fixture
def dead_bridge() -> Iterator[tuple[bridging.Bridging, SimpleNamespace]]:
    """A bridge, dead, that another master had started; and what is known of it."""
    child = subprocess.Popen(["true"])
    fd = os.pidfd_open(child.pid)
    child.wait()
    keeping = SimpleNamespace(fds={bridging.PID: fd}, status=None)
    keeping.status_of = lambda *_: keeping.status
    keeping.may_tell = lambda *_: True
    keeping.drop = lambda *names: [keeping.fds.pop(name, None) for name in names]
    context: Any = SimpleNamespace(keeping=keeping, journal=Anything(), poll=Anything(), leaving=Anything())
    bus: Any = Anything()
    yield bridging.Bridging(context, Ledger({}), bus), keeping
    os.close(fd)


def test_a_bridge_is_dead_when_it_is_known_how(dead_bridge: tuple[bridging.Bridging, SimpleNamespace]) -> None:
    """Until then no other is started; then it is told."""
    part, keeping = dead_bridge
    part.on_gone()
    part.tick()
    journal: Any = part.context.journal
    assert bridging.PID in keeping.fds and journal.calls == []
    keeping.status = 9
    part.tick()
    assert bridging.PID not in keeping.fds
    ((_, (message, text)),) = journal.calls
    assert (message, text) == (messages.BRIDGE_FAILED, "the bridge killed by SIGKILL: another one is started")


def test_a_stop_does_not_wait_for_how_the_bridge_died(
    dead_bridge: tuple[bridging.Bridging, SimpleNamespace],
) -> None:
    """Nobody need be told."""
    part, keeping = dead_bridge
    part.bus.links = {}
    part.on_gone()
    part.end()
    assert not part.ending and bridging.PID not in keeping.fds


def test_a_stop_ends_the_wait(clock: Clock) -> None:
    """Who waits is told that the service stops."""
    host = Hosts(clock)
    asking = host.ask()
    host.tasks.ledger.cluster = replace(host.tasks.ledger.cluster, stopping=True)
    host.tasks.advance()
    assert asking.answer == {"error": "Stopping"}
