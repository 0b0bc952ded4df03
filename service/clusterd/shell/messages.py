"""Everything the journal is told under a MESSAGE_ID: the one table, from which the catalog is written.

`python3 -m clusterd.shell.messages >units/clusterd.catalog` writes it; a test holds the two together. An id, once
released, keeps its meaning: people search for it.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import IntEnum, unique


@unique
class Priority(IntEnum):
    """syslog's levels, as PRIORITY= in the journal."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


@dataclass(frozen=True)
class Message:
    """A kind of event: its MESSAGE_ID, usual priority, and what the catalog says of it."""

    id: str
    priority: Priority
    subject: str
    text: str


START_BEGUN = Message(
    "044acd7d807048fe8a0198ef547742b4",
    Priority.INFO,
    "@CLUSTERD_APP@ is starting",
    "The application @CLUSTERD_APP@ is imported as generation @CLUSTERD_GENERATION@; then its workers are started. "
    "Clients wait on the sockets meanwhile.",
)
STARTED = Message(
    "5a2c2cd8f36a4628bbf15bfc55a07376",
    Priority.NOTICE,
    "Application @CLUSTERD_APP@ serves",
    "Every wanted worker of the application @CLUSTERD_APP@ is ready and accepts connections, all of generation "
    "@CLUSTERD_GENERATION@.",
)
WORKER_READY = Message(
    "488f5a986af345aba7c6a016de2469fd",
    Priority.INFO,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ is ready",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) has loaded the application and "
    "passed its checks. It accepts connections when the generation is committed.",
)
WORKER_DIED = Message(
    "c91642c0dd494b7ba487da60eaba8d8f",
    Priority.WARNING,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ died",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) ended without having been asked "
    "to. The connections it had accepted are lost; those that wait on its slot are not, and another worker is started "
    "for the slot. Its last output is in the journal under the identifier @CLUSTERD_APP@/@CLUSTERD_SLOT@.",
)
WORKER_LATE = Message(
    "adffdf6b6b90473793115e6e33008cd4",
    Priority.WARNING,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ was not ready in time",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) did not become ready within "
    "[reload] ready-timeout, and was killed. Its output is in the journal under the identifier "
    "@CLUSTERD_APP@/@CLUSTERD_SLOT@.",
)
WORKER_LEFT = Message(
    "2b11190e987c4e3793ef1e0371e9c72e",
    Priority.WARNING,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ leaves by itself",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) stopped accepting though it "
    "was not asked to. It finishes what it has; another worker is started for its slot.",
)
WORKER_REPLACED = Message(
    "52c8b997481f4c579ca268b9228a547e",
    Priority.NOTICE,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ took over slot @CLUSTERD_SLOT@",
    "A worker that had died was replaced: worker @CLUSTERD_WORKER@ serves slot @CLUSTERD_SLOT@ now.",
)
WORKER_SPENT = Message(
    "6a22e5fc09ab4a37a8417c92f6c9cc63",
    Priority.INFO,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ is recycled",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) has reached a bound of "
    "[recycle]. Another worker is started for its slot; it serves on until that one does, then drains and leaves.",
)
WORKER_HUNG = Message(
    "8859f8de0c3b481ba68071d6db880a05",
    Priority.ERROR,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ hangs",
    "Worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation @CLUSTERD_GENERATION@) has given no sign of life for "
    "[health] watchdog. Another worker is started for its slot, and takes the connections that wait there; new ones go "
    "elsewhere meanwhile. Where it stood is in the journal under the identifier @CLUSTERD_APP@/@CLUSTERD_SLOT@. If it "
    "comes to itself within as long again it finishes what it has and leaves; otherwise it is killed. What blocks an "
    "event loop belongs into a thread (asyncio.to_thread); work that takes long belongs into a task.",
)
SCALED = Message(
    "ce0e4ef514f94d6fa88b3047fd233654",
    Priority.NOTICE,
    "The number of workers of @CLUSTERD_APP@ was changed",
    "Somebody asked for another number of workers ('clusterd scale', or SIGTTIN and SIGTTOU). It holds until the "
    "service stops, or a reload finds another number in the file.",
)
RELOAD_BEGUN = Message(
    "e49eb21e360c43faa39bc40930cdb0ea",
    Priority.NOTICE,
    "Reload of @CLUSTERD_APP@ begun",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ is loaded from the code on disk. The workers of the generation "
    "before serve on, untouched, until all of the new ones are ready.",
)
RELOAD_COMMITTED = Message(
    "a96b9c5b90e343e5b2b61b60dd62189f",
    Priority.NOTICE,
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ is committed",
    "All of the generation's workers are ready, and accept connections from now on. The workers of the generation "
    "before stop accepting, finish what they have and leave.",
)
RELOAD_DONE = Message(
    "9197b763259f47e38f65078aab5bf922",
    Priority.NOTICE,
    "Reload of @CLUSTERD_APP@ done",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ serves every slot, and no worker of the generation before "
    "accepts any more. The generation is watched for a while ([reload] watch): if it keeps dying, the one before is "
    "brought back.",
)
RELOAD_RECEIPT = Message(
    "befa1e4d4ea941ea904b216a4b87b2c0",
    Priority.INFO,
    "The old workers of @CLUSTERD_APP@ are gone",
    "The last worker of the generation that was replaced by generation @CLUSTERD_GENERATION@ has left. How many "
    "connections were cut, and how many WebSockets were closed with 1012, is known now.",
)
RELOAD_SETTLED = Message(
    "e3a479bc700c45b5a7915c2e79a0ecc7",
    Priority.INFO,
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ has settled",
    "Generation @CLUSTERD_GENERATION@ has lived through [reload] watch. It is not returned to the one before by "
    "itself any more; 'clusterd rollback @CLUSTERD_APP@' still does it by hand.",
)
RELOAD_REFUSED = Message(
    "1eef60f3327f4787a78125769ca00c72",
    Priority.ERROR,
    "Reload of @CLUSTERD_APP@ refused, nothing changed",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ did not become ready, so it was dropped before it had seen a "
    "request. The workers of the generation before serve on, and would be started again from the code they have in "
    "memory. Repair the code and reload again; 'clusterd try @CLUSTERD_APP@' checks it without touching the service.",
)
RELOAD_UNDONE = Message(
    "ebf8a91aaef5443dac3d923255f6f67a",
    Priority.ERROR,
    "Reload of @CLUSTERD_APP@ refused and undone",
    "Workers of @CLUSTERD_APP@ are replaced a few at a time ([reload] surge), and one of generation "
    "@CLUSTERD_GENERATION@ did not become ready after others of it served. Those were replaced again, by the "
    "generation before, from memory. Repair the code and reload again.",
)
CONFIGURATION_REFUSED = Message(
    "1fca2e27d3bf4603a74c5325bc146c72",
    Priority.ERROR,
    "The configuration of @CLUSTERD_APP@ was refused, nothing changed",
    "The file has errors, or asks for what a reload cannot change. The running workers keep the configuration they "
    "have; 'clusterd check @CLUSTERD_APP@' says all that is wrong with it.",
)
ROLLBACK_BEGUN = Message(
    "139b45c254aa4fe5a61aaae496af72af",
    Priority.NOTICE,
    "Rollback of @CLUSTERD_APP@ begun",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@, which is parked in memory, is brought back. Nothing is read "
    "from disk.",
)
ROLLBACK_DONE = Message(
    "0a10d9acf65b4dd78e5a63c61e10ba96",
    Priority.NOTICE,
    "Rollback of @CLUSTERD_APP@ done",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ serves every slot again. The code on disk is not the code "
    "that serves, until the next reload.",
)
ROLLBACK_REFUSED = Message(
    "2f37ff7a17b6490ea89ca038869cf45a",
    Priority.ERROR,
    "Rollback of @CLUSTERD_APP@ refused, nothing changed",
    "No generation is parked, or its workers did not become ready. What served before serves on.",
)
TRY_BEGUN = Message(
    "029ba14205324680a0d08ac862704f1a",
    Priority.INFO,
    "The code of @CLUSTERD_APP@ on disk is tried",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ is loaded from disk and checked in one worker that gets no "
    "connection.",
)
TRY_DONE = Message(
    "3f816f57611b47918b03f41b58dd0117",
    Priority.NOTICE,
    "The code of @CLUSTERD_APP@ on disk is fit to be served",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ became ready, and was dropped again: a reload would be "
    "accepted.",
)
TRY_REFUSED = Message(
    "42ef0b38a6344e48a07be56dac0beecd",
    Priority.WARNING,
    "The code of @CLUSTERD_APP@ on disk is not fit to be served",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ did not become ready. What serves was not touched; a reload "
    "would be refused.",
)
RELOAD_SUPERSEDED = Message(
    "3aab1272e2f74a60bfd891dbcd4c49bf",
    Priority.NOTICE,
    "Reload of @CLUSTERD_APP@ superseded by a later one",
    "Another reload was asked for before generation @CLUSTERD_GENERATION@ was committed; it was dropped for the newer "
    "one. Whoever asked for the first is told with an exit status of its own (3).",
)
GIVEN_UP = Message(
    "74dbd3371a184d7dad158d24cefa4599",
    Priority.NOTICE,
    "A change of @CLUSTERD_APP@ was given up because it is stopping",
    "@CLUSTERD_APP@ was told to stop while generation @CLUSTERD_GENERATION@ was on its way.",
)
RETURNING = Message(
    "76c602f5931942dcb484c70a9bb63f84",
    Priority.CRITICAL,
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ is given up",
    "Workers of generation @CLUSTERD_GENERATION@ keep dying. The generation before, which is parked in memory, is "
    "brought back.",
)
RETURNED = Message(
    "f2bf73eef3b147f5b901c9f033221610",
    Priority.CRITICAL,
    "@CLUSTERD_APP@ returned to the previous generation",
    "The generation that was committed kept dying, so generation @CLUSTERD_GENERATION@, which served before it, was "
    "brought back from memory. The code on disk is not the code that serves: repair it, then reload.",
)
OLD_GONE = Message(
    "b5ababd228d3489f82dd4c3ad38128ee",
    Priority.INFO,
    "The last worker of generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ left",
    "All workers of generation @CLUSTERD_GENERATION@ have finished what they had and are gone.",
)
DEGRADED = Message(
    "d16f5be143c44500ac7f44855130c506",
    Priority.ERROR,
    "@CLUSTERD_APP@ is degraded",
    "Fewer workers of @CLUSTERD_APP@ serve than are wanted. New connections go to those that do; when there is none, "
    'clients are answered 503, or wait with unavailable = "wait". Starting is tried again and again, with growing '
    "delays ([restart]).",
)
BOOT_FAILED = Message(
    "ab92d2265c7d4bda8d0ca05f5b93cf4a",
    Priority.ERROR,
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ could not be imported",
    "The application failed while it was imported, for new workers of a generation that has no process left to fork "
    "from. It is tried again, with growing delays ([restart]).",
)
RECOVERED = Message(
    "2383ce1519134388be270ecc4ff10c0b",
    Priority.NOTICE,
    "@CLUSTERD_APP@ has recovered",
    "Every wanted worker of @CLUSTERD_APP@ serves again.",
)
DRAIN_CUT_OFF = Message(
    "a8915ca536b2485c84c467dd0108377a",
    Priority.WARNING,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ was cut off",
    "Worker @CLUSTERD_WORKER@ had not finished its requests when drain-timeout was over, and was killed. Clients of "
    "those requests got no answer. If they are wanted, raise drain-timeout in [reload] or [stop].",
)
ZYGOTE_LOST = Message(
    "c0f4597c3afa41c1a5e71ec1f06478ca",
    Priority.WARNING,
    "The zygote of generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ was lost",
    "The process that workers of this generation are forked from ended. Its twin takes its place; without one, the "
    "next worker is started from the code on disk.",
)
UNEXPECTED = Message(
    "d1c2e9603ca04eae8e59a21ade42f718",
    Priority.WARNING,
    "The master of @CLUSTERD_APP@ heard what cannot be",
    "A process of @CLUSTERD_APP@ said something its state does not allow. It is ignored. This is a bug of clusterd: "
    "please report it with the record.",
)
JOURNAL_FULL = Message(
    "b467e4a7aad146c597d19187a6e0dc92",
    Priority.WARNING,
    "Records of @CLUSTERD_APP@ are missing here",
    "systemd-journald did not take what clusterd had to tell: it was stopped, hung, or waited for a slow disk. "
    "clusterd serves on, and keeps a thousand records for it; there were more. 'clusterd status @CLUSTERD_APP@' shows "
    "how things are, 'systemctl status systemd-journald' how journald is; look at the disk of /var/log/journal, too.",
)
MASTER_DIED = Message(
    "b1f579f44f59457b8d67b20561964277",
    Priority.ERROR,
    "The master of @CLUSTERD_APP@ died, another is started",
    "The process that manages the workers of @CLUSTERD_APP@ ended or hung. The workers serve on meanwhile, and the "
    "next master takes them over.",
)
MASTER_LEFT = Message(
    "7c0b7da9d49c4acea81c009ea93e3d54",
    Priority.NOTICE,
    "The master of @CLUSTERD_APP@ makes room for another",
    "The master was told to leave ('clusterd upgrade', SIGUSR1), as an upgrade of the package does. The workers serve "
    "on, and the next master, from the files now on disk, takes them over.",
)
UPGRADE_REFUSED = Message(
    "ba0b00f3f4264315bce46703d3916101",
    Priority.ERROR,
    "The clusterd now installed cannot take over @CLUSTERD_APP@",
    "The master was told to make room for one of the files now on disk. These were tried first, and failed: the "
    "package may be half installed, or of a version that does not know what this master has written down. The master "
    "that runs stays, and serves on. Repair the installation ('dpkg --audit'), then 'clusterd upgrade @CLUSTERD_APP@'.",
)
MASTER_TOOK_OVER = Message(
    "5e981d60571047ffb67c59bfe2a0cc58",
    Priority.NOTICE,
    "A new master of @CLUSTERD_APP@ took over",
    "A master has found the workers of the one before and goes on where that left off. No connection was touched.",
)
STOPPING = Message(
    "e198be4a3f9c4cb286abb77847a782ac",
    Priority.NOTICE,
    "@CLUSTERD_APP@ is stopping",
    "The workers finish what they have, for at most [stop] drain-timeout.",
)
STOPPED = Message(
    "5ab4dea68df649fb992b0e4d26bad737",
    Priority.NOTICE,
    "@CLUSTERD_APP@ has stopped",
    "No process of @CLUSTERD_APP@ is left. While its socket unit is active, the next connection starts "
    "the service again.",
)
START_FAILED = Message(
    "4ce8c327d01f42929799ef99dd1a2879",
    Priority.ERROR,
    "@CLUSTERD_APP@ could not be started",
    "No worker of @CLUSTERD_APP@ became ready. The service tries again by itself, with growing delays. "
    'Meanwhile clients are answered 503, or wait with unavailable = "wait"; once the application is repaired it serves '
    "without any command.",
)
USHER_STARTED = Message(
    "6371b514de5d42e38cbb52f896a65c83",
    Priority.NOTICE,
    "The usher of @CLUSTERD_APP@ was started",
    "Connections wait on a slot that no worker serves. The usher passes them to one that is served, or answers 503 "
    "when there is none.",
)
USHER_ENDED = Message(
    "a7af4f2e78a04151aaf51089ca1003bb",
    Priority.INFO,
    "The usher of @CLUSTERD_APP@ has ended",
    "No connection waits any more on a slot without a worker.",
)
USHER_FAILED = Message(
    "a5b22cf44a754945988a5f6cad905016",
    Priority.WARNING,
    "The usher of @CLUSTERD_APP@ failed",
    "The usher could not be started, or died. While connections wait on a slot without a worker another one is "
    "started.",
)
KEEPER_REPLACED = Message(
    "feca8eed02d64c628a3541a1229a8975",
    Priority.WARNING,
    "The keeper of @CLUSTERD_APP@ was replaced",
    "The process that holds the sockets and restarts the master ended; the master has started another, which holds "
    "the same.",
)
KEEPER_LOST = Message(
    "66a1461bfd7e489c92947b6fd0993264",
    Priority.CRITICAL,
    "@CLUSTERD_APP@ is without a keeper",
    "The process that holds the sockets and restarts the master ended, and the master could not start another, which it"
    " tries again every few seconds. Should the master die too before that, systemd starts the service afresh.",
)
STEERING_FAILED = Message(
    "a6fd50c2fe15470aaf6c4533aa786f6f",
    Priority.ERROR,
    "The kernel does not steer the connections of @CLUSTERD_APP@",
    "The kernel took no program for the sockets of an address. It spreads new connections over all slots itself; "
    "those that no worker serves are passed on by the usher.",
)
STORE_CLEARED = Message(
    "c4d356b026594fe78001fc26bd462672",
    Priority.WARNING,
    "Somebody else's descriptors were in the fd store of @CLUSTERD_APP@",
    "systemd keeps the sockets of @CLUSTERD_APP@ from one start to the next, and takes descriptors for that from every "
    "process of the unit. Some were not sockets that systemd has opened, or had names that contradict each other; "
    "clusterd has thrown them away. A program of the application that stores descriptors does this (FDSTORE=1), "
    "or somebody who has taken over a worker: if no program of yours does, look into it.",
)
NOTICE_IGNORED = Message(
    "689f405f5b034155ad58e3b89897021f",
    Priority.WARNING,
    "A message in the name of worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ was ignored",
    "A process that does not belong to worker @CLUSTERD_WORKER@ (slot @CLUSTERD_SLOT@, generation "
    "@CLUSTERD_GENERATION@) has sent READY=1, WATCHDOG=1 or the like to the worker's notify socket. Only the worker's "
    "own processes may, and only while they live: let the worker say it itself, or by systemd-notify, which waits "
    "until it has been heard. Another worker of the application that speaks for this one is broken, or was taken over.",
)
SLOTS_MISSING = Message(
    "53f99a8da10a4ceb8bad323129c4e25f",
    Priority.ERROR,
    "The sockets of @CLUSTERD_APP@ are not those of its file",
    "systemd opens the sockets when the socket unit of @CLUSTERD_APP@ starts, and the file was changed since, or could "
    "not be read when systemd was reloaded. What there is is served. Stopping and starting both units opens the "
    "sockets as the file has them: clusterd stop @CLUSTERD_APP@, then clusterd start @CLUSTERD_APP@.",
)
PORT_SHARED = Message(
    "d6936692611d4f6eb84da75fae9b9dbb",
    Priority.ERROR,
    "Another program listens on an address of @CLUSTERD_APP@",
    "A program that does not belong to @CLUSTERD_APP@ has the same address open with SO_REUSEPORT. The kernel gives it "
    "a part of the connections, or all of them. Stop the program, or change listen in one of the two.",
)
UNDELEGATED = Message(
    "349567f1111249ac9a265e7cad68f65d",
    Priority.WARNING,
    "@CLUSTERD_APP@ has no cgroups of its own",
    "Something keeps clusterd from giving each worker a cgroup: Delegate= in a drop-in of the unit, or a system "
    "without cgroup version 2. It serves and reloads as ever; but processes that a worker leaves behind are found only "
    "when the service stops, and that a worker was killed for want of memory is told by the count of the "
    'whole machine alone: "out of memory, it seems".',
)

BUS_SLOW = Message(
    "65839e58431d43b29241322e68224404",
    Priority.WARNING,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ does not read its messages",
    "Messages of other workers for worker @CLUSTERD_WORKER@ wait in the master, as many as may. Until it has read them "
    "newer ones are dropped; the worker is told how many. Requests over HTTP are not affected.",
)
BUS_BROKEN = Message(
    "310954dfd643442fae81220303089ca2",
    Priority.ERROR,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ has lost its messages",
    "Worker @CLUSTERD_WORKER@ wrote to its messages' channel what is not the protocol, and the channel was closed. The "
    "worker serves on, and neither sends nor gets messages until it is replaced.",
)

BUS_AWAY = Message(
    "126fc599d39c46f8a814200ae0ab5935",
    Priority.WARNING,
    "@CLUSTERD_APP@ cannot reach its bus to other hosts",
    "The Redis of the key bus cannot be used. What the workers of @CLUSTERD_APP@ say to each other is heard on this "
    "machine only; values published here reach the other hosts when the Redis is back. It is tried again by itself. "
    "Tasks go on for 20 s where they run; after that they wait.",
)
BUS_BACK = Message(
    "a957ba6572de431dbc43934b2ad5aaba",
    Priority.NOTICE,
    "@CLUSTERD_APP@ has its bus to other hosts again",
    "The Redis of the key bus answers again: retained values have been exchanged, and broadcasts are carried. What "
    "was broadcast meanwhile was heard on its own host only.",
)
BRIDGE_FAILED = Message(
    "c732687e18f54b129306d99bc0274602",
    Priority.WARNING,
    "The bridge of @CLUSTERD_APP@ failed",
    "The process that carries messages to other hosts could not be started, or died. Another one is started; what was "
    "broadcast meanwhile was heard on its own host only, and retained values are not lost.",
)

TASK_FAILED = Message(
    "77e36f4bcbcd45e5a885ae667fb460e5",
    Priority.ERROR,
    "Task @CLUSTERD_TASK@ of @CLUSTERD_APP@ failed",
    "A run of the task @CLUSTERD_TASK@ raised an exception, took too long or died. It is tried again, at growing "
    "intervals where it runs often; failures that follow are not told again until it has recovered. 'clusterd task "
    "@CLUSTERD_APP@' has the last one. What it printed is in the journal under the identifier "
    "@CLUSTERD_APP@/@CLUSTERD_TASK@.",
)
TASK_RECOVERED = Message(
    "a26871804b954b6a91e6dd5fceacfd12",
    Priority.NOTICE,
    "Task @CLUSTERD_TASK@ of @CLUSTERD_APP@ has recovered",
    "A run of the task @CLUSTERD_TASK@ succeeded, after one or more that had failed.",
)

MESSAGES: dict[str, Message] = {name: value for name, value in globals().items() if isinstance(value, Message)}


def catalog() -> str:
    """The text of units/clusterd.catalog, as journalctl --update-catalog takes it."""
    head = "# Written by clusterd.shell.messages; a test compares the two.\n"
    return head + "".join(
        f"\n-- {m.id}\nSubject: {m.subject}\nDefined-By: clusterd\nDocumentation: man:clusterd(8)\n\n"
        f"{textwrap.fill(m.text, 79)}\n"
        for m in MESSAGES.values()
    )


if __name__ == "__main__":
    print(catalog(), end="")
