"""The master's parts, each alone: what they tell systemd, whom the usher gets, what a receipt is about."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd.config.settings import Settings, Tls
from clusterd.core.actions import Finish, Outcome, Tell, What
from clusterd.core.model import Cluster, Kind, Mode, Phase, Rollout, Worker
from clusterd.master.ledger import Ledger
from clusterd.master.performing import Performer
from clusterd.master.receipts import Receipt
from clusterd.master.releases import Release
from clusterd.master.telling import Telling
from clusterd.master.ushering import Ushering
from clusterd.shell import interface


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


def test_a_receipt_knows_nothing_of_an_older_crash() -> None:
    """The longest wait is that of this change: not of a worker that was lost before it began."""
    told = telling(Cluster(steered=(0,)))
    told.observe(100.0)
    worker = Worker(1, 0, 0, 1, since=0.0, phase=Phase.SERVING, accepting=True, ready_at=0.0)
    told.ledger.cluster = Cluster(steered=(0,), workers={1: worker})
    told.observe(109.0)
    told.tell(Tell(What.BEGUN, Kind.RELOAD, generation=2, number=2))
    assert told.finish(Finish(2, Kind.RELOAD, Outcome.DONE, 2)).gap == 0.0


def test_a_receipt_is_what_the_interface_says() -> None:
    """The Varlink type and its outcomes are those of the receipts that are sent."""
    text = interface.TEXT.partition("type Receipt (\n")[2].partition("\n)")[0]
    types = dict(line.strip().rstrip(",").split(": ", 1) for line in text.splitlines())
    assert list(types) == [field.name for field in fields(Receipt)]
    assert types["outcome"] == f"({', '.join(Outcome)})"
