"""What people are told: journal records, the status line, receipts. The core says what happened; the words are here."""

from __future__ import annotations

from clusterd.core.actions import Finish, Outcome, Tell, What
from clusterd.core.model import NO_SLOT, Boot, Cluster, Kind, Phase, Stage
from clusterd.master import sockets
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.receipts import Receipt
from clusterd.shell import messages
from clusterd.shell.messages import Message

MESSAGES: dict[What, Message] = {
    What.STARTED: messages.STARTED,
    What.START_FAILED: messages.START_FAILED,
    What.DEGRADED: messages.DEGRADED,
    What.RECOVERED: messages.RECOVERED,
    What.WORKER_READY: messages.WORKER_READY,
    What.WORKER_REPLACED: messages.WORKER_REPLACED,
    What.WORKER_DIED: messages.WORKER_DIED,
    What.WORKER_LEFT: messages.WORKER_LEFT,
    What.WORKER_TIMEOUT: messages.WORKER_LATE,
    What.WORKER_CUT: messages.DRAIN_CUT_OFF,
    What.WORKER_SPENT: messages.WORKER_SPENT,
    What.WORKER_HUNG: messages.WORKER_HUNG,
    What.ZYGOTE_LOST: messages.ZYGOTE_LOST,
    What.BOOT_FAILED: messages.BOOT_FAILED,
    What.BEGUN: messages.RELOAD_BEGUN,
    What.COMMITTED: messages.RELOAD_COMMITTED,
    What.DONE: messages.RELOAD_DONE,
    What.REFUSED: messages.RELOAD_REFUSED,
    What.UNDONE: messages.RELOAD_UNDONE,
    What.RETURNING: messages.RETURNING,
    What.RETURNED: messages.RETURNED,
    What.SUPERSEDED: messages.RELOAD_SUPERSEDED,
    What.SETTLED: messages.RELOAD_SETTLED,
    What.SCALED: messages.SCALED,
    What.GENERATION_GONE: messages.OLD_GONE,
    What.STOPPING: messages.STOPPING,
    What.STOPPED: messages.STOPPED,
}
OTHERS: dict[tuple[What, str], Message] = {
    (What.BEGUN, Kind.START): messages.START_BEGUN,
    (What.BEGUN, Kind.ROLLBACK): messages.ROLLBACK_BEGUN,
    (What.DONE, Kind.ROLLBACK): messages.ROLLBACK_DONE,
    (What.REFUSED, Kind.ROLLBACK): messages.ROLLBACK_REFUSED,
    (What.BEGUN, Kind.TRY): messages.TRY_BEGUN,
    (What.DONE, Kind.TRY): messages.TRY_DONE,
    (What.REFUSED, Kind.TRY): messages.TRY_REFUSED,
    (What.SUPERSEDED, Outcome.STOPPED): messages.GIVEN_UP,
}
"""What a start, a rollback or a try, or a stop in the middle, has messages of its own for."""


class Telling:
    def __init__(self, context: Context, ledger: Ledger) -> None:
        self.context = context
        self.ledger = ledger
        self._gaps: dict[int, float] = {}
        """Slots that get connections and have nobody who accepts, since when."""
        self._longest_gap = 0.0
        self._last_status = ""
        self._last_shortage = ""
        self.note = ""
        """What the status line says besides: why the last change was refused or returned."""

    def tell(self, tell: Tell, traceback: str = "") -> None:
        """One journal record."""
        if tell.what is What.BEGUN:
            self._longest_gap = 0.0  # the receipt is of what the change did, not of a crash last week
        text = self._words(tell, self.ledger.cluster)
        if not text:
            return
        if traceback:
            text += f"\n{traceback.rstrip()}"
        self.context.journal.record(
            self._message(tell),
            text,
            worker=tell.worker,
            slot=None if tell.slot == NO_SLOT else tell.slot,
            generation=tell.generation,
            reload=tell.number,
        )

    def finish(self, finish: Finish) -> Receipt:
        cluster = self.ledger.cluster
        workers = (
            cluster.generations[finish.generation].policy.workers if finish.generation in cluster.generations else 0
        )
        receipt = Receipt(
            finish.number,
            finish.kind,
            finish.outcome,
            finish.generation,
            workers,
            round(finish.seconds, 3),
            finish.reason or None,
            gap=round(self._longest_gap, 4),
        ).write()
        self.ledger.add(receipt)
        if finish.kind is not Kind.TRY:
            bad = finish.outcome in (Outcome.REFUSED, Outcome.RETURNED) and finish.kind is not Kind.START
            self.note = f"{finish.kind} {receipt.text}" if bad else ""
        if self.ledger.cluster.rollout is None:  # a try may be refused, and what is under way goes on
            self._longest_gap = 0.0
        return receipt

    def drained(self, report: dict[str, int]) -> None:
        """What one old worker cost at its end goes onto the last receipt that was done."""
        receipt = self._last_done()
        if receipt is not None and not receipt.drained:
            receipt.closed += report.get("closed", 0)
            receipt.websockets += report.get("websockets", 0)
            receipt.cut += report.get("cut", 0)
            receipt.untold += report.get("untold", 0)

    def all_drained(self) -> bool:
        """The old workers are gone: the receipt is complete, and told. Whether it was not before."""
        receipt = self._last_done()
        if receipt is None or receipt.drained:
            return False
        receipt.drained = True
        self.context.journal.record(
            messages.RELOAD_RECEIPT,
            f"receipt {receipt.write().text}",
            generation=receipt.generation,
            reload=receipt.number,
        )
        return True

    def observe(self, now: float) -> None:
        """Measure how long a slot that gets connections had nobody who accepts."""
        cluster = self.ledger.cluster
        served = {w.slot for w in cluster.workers.values() if w.accepting}
        steered = set(cluster.steered)
        for slot in list(self._gaps):
            if slot in served or slot not in steered:
                self._longest_gap = max(self._longest_gap, now - self._gaps.pop(slot))
        for slot in steered - served:
            self._gaps.setdefault(slot, now)

    def status(self) -> None:
        """The line of `systemctl status`, when it has changed; and once, that the sockets are not the file's."""
        short = sockets.shortage(self.context, self.ledger)
        if short != self._last_shortage:
            self._last_shortage = short
            if short:
                self.context.journal.record(messages.SLOTS_MISSING, short)
        text = self.line()
        if text != self._last_status:
            self._last_status = text
            self.context.notifier.status(text)

    def line(self) -> str:
        """The line of `systemctl status`: what is, and why the last change did not come to be."""
        parts = (summary(self.ledger.cluster), self.note, sockets.shortage(self.context, self.ledger))
        return "; ".join(part for part in parts if part)

    def _last_done(self) -> Receipt | None:
        """The last reload or rollback that was done: of whose old workers the counts are."""
        done = [
            number
            for number, r in self.ledger.receipts.items()
            if r.outcome == Outcome.DONE and r.kind in (Kind.RELOAD, Kind.ROLLBACK)
        ]
        return self.ledger.receipts[max(done)] if done else None

    def _where(self) -> str:
        addresses = ", ".join(group.text for group in self.context.slots.groups)
        # Under systemd everybody knows where the control socket is.
        return f"{addresses} (control socket {self.context.runtime}/control)" if self.context.foreground else addresses

    def _message(self, tell: Tell) -> Message:
        receipt = self.ledger.receipts.get(tell.number) if tell.number is not None else None
        about = tell.text if tell.what is What.BEGUN else receipt.kind if receipt is not None else ""
        if tell.what is What.SUPERSEDED and receipt is not None:
            about = receipt.outcome
        return OTHERS.get((tell.what, about), MESSAGES[tell.what])

    def _words(self, tell: Tell, cluster: Cluster) -> str:
        number = f"#{tell.number}" if tell.number is not None else ""
        g = f"generation {tell.generation}" if tell.generation is not None else ""
        receipt = self.ledger.receipts.get(tell.number) if tell.number is not None else None
        match tell.what:
            case What.STARTED:
                return f"started: {summary(cluster)}, on {self._where()}"
            case What.START_FAILED:
                return f"start failed: {tell.text}"
            case What.DEGRADED:
                return f"no worker can be started: {tell.text}"
            case What.BOOT_FAILED:
                return f"{g} cannot be imported: {tell.text}"
            case What.RECOVERED:
                return f"recovered: {summary(cluster)}"
            case What.WORKER_READY:
                return f"worker {tell.worker} is ready ({g})"
            case What.WORKER_REPLACED:
                return f"worker {tell.worker} took over slot {tell.slot} ({g})"
            case What.WORKER_LEFT:
                return f"worker {tell.worker} leaves by itself ({g})"
            case What.WORKER_DIED:
                return f"worker {tell.worker} died: {tell.text} ({g})"
            case What.WORKER_TIMEOUT:
                return f"worker {tell.worker} is killed: {tell.text} ({g})"
            case What.WORKER_CUT:
                return f"worker {tell.worker} is killed: it {tell.text} ({g})"
            case What.WORKER_SPENT:
                return f"worker {tell.worker} is to be replaced: it {tell.text} ({g})"
            case What.WORKER_HUNG:
                return f"worker {tell.worker} hangs: it {tell.text} ({g})"
            case What.ZYGOTE_LOST:
                known = cluster.generations.get(tell.generation) if tell.generation is not None else None
                then = "its twin takes over" if known is not None and known.boot is Boot.UP else "it has no twin"
                return f"{g}: {tell.text}; {then}"
            case What.BEGUN:
                return f"{number}: {tell.text} of {g} begun"
            case What.COMMITTED:
                return f"{number}: {g} committed: new workers serve, old ones drain"
            case What.DONE:
                return receipt.text if receipt else f"{number}: done"
            case What.REFUSED:
                return f"{number}: refused, nothing changed: {tell.text}"
            case What.UNDONE:
                return f"{number}: refused, {tell.text}"
            case What.RETURNING:
                return f"{number}: {g} is given up: {tell.text}"
            case What.RETURNED:
                return f"{number}: returned to generation {cluster.current}: {tell.text}"
            case What.SUPERSEDED:
                return f"{number}: {tell.text}"
            case What.SETTLED:
                return f"{number}: {g} has settled"
            case What.SCALED:
                return f"scaled {tell.text}"
            case What.GENERATION_GONE:
                return f"{g} is gone"
            case What.STOPPING:
                return "stopping: workers drain"
            case What.STOPPED:
                return "stopped"


def summary(cluster: Cluster) -> str:
    """One line that is always true: "4/4 workers, generation 3"; "reloading: 2/4 ready"."""
    policy = cluster.policy
    serving = sum(1 for _ in cluster.accepting())
    if cluster.stopped:
        return f"stopped: {cluster.problem}" if cluster.problem else "stopped"
    if cluster.stopping:
        why = f" after a failed start: {cluster.problem}" if cluster.problem else ""
        return f"stopping{why}: {len(cluster.workers)} workers drain" if cluster.workers else f"stopping{why}"
    r = cluster.rollout
    if r is not None:
        text = f"{_doing(r.kind)}: {progress(cluster)['text']}"
        return text if serving == 0 else f"{text} ({serving} serving)"
    if cluster.problem:
        tries = max((f.count for f in cluster.failures.values()), default=0)
        again = f" ({tries} times in a row; trying again with back-off)" if tries else ""
        return f"{serving}/{policy.workers} workers: {cluster.problem}{again}"
    draining = sum(w.phase is Phase.DRAINING for w in cluster.workers.values())
    text = f"{serving}/{policy.workers} workers, generation {cluster.current}"
    return f"{text}, {draining} draining" if draining else text


def _doing(kind: Kind) -> str:
    return {Kind.START: "starting", Kind.RELOAD: "reloading", Kind.ROLLBACK: "rolling back", Kind.TRY: "trying"}[kind]


def progress(cluster: Cluster) -> dict[str, object]:
    """Where the rollout under way is."""
    r = cluster.rollout
    assert r is not None
    wanted = cluster.seats_of(r)
    of_target = [w for w in cluster.workers.values() if w.generation == r.target]
    ready = sum(w.phase in (Phase.READY, Phase.SERVING) and not w.killed for w in of_target)
    serving = sum(w.accepting and w.phase is Phase.SERVING for w in of_target)
    match r.stage:
        case Stage.PREPARING:
            text = f"{ready}/{wanted} ready"
        case Stage.SOAKING:
            text = f"{ready}/{wanted} ready, soaking"
        case Stage.COMMITTED:
            text = f"{serving}/{wanted} serving"
        case Stage.RETURNING:
            text = f"returning to generation {r.base}: {r.failure}"
    return {"number": r.number, "phase": r.stage, "ready": ready, "wanted": wanted, "serving": serving, "text": text}
