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
WORKER_REPLACED = Message(
    "52c8b997481f4c579ca268b9228a547e",
    Priority.NOTICE,
    "Worker @CLUSTERD_WORKER@ of @CLUSTERD_APP@ took over slot @CLUSTERD_SLOT@",
    "A worker that had died was replaced: worker @CLUSTERD_WORKER@ serves slot @CLUSTERD_SLOT@ now.",
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
    "Reload of @CLUSTERD_APP@ done",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ serves every slot. The workers of the generation before finish "
    "what they have and leave. The generation is watched for a while ([reload] watch): if it keeps dying, the one "
    "before is brought back.",
)
RELOAD_REFUSED = Message(
    "1eef60f3327f4787a78125769ca00c72",
    Priority.ERROR,
    "Reload of @CLUSTERD_APP@ refused, nothing changed",
    "Generation @CLUSTERD_GENERATION@ of @CLUSTERD_APP@ did not become ready, so it was dropped before it had seen a "
    "request. The workers of the generation before serve on, and would be started again from the code they have in "
    "memory. Repair the code and reload again; 'clusterd try @CLUSTERD_APP@' checks it without touching the service.",
)
RELOAD_SUPERSEDED = Message(
    "3aab1272e2f74a60bfd891dbcd4c49bf",
    Priority.NOTICE,
    "Reload of @CLUSTERD_APP@ superseded by a later one",
    "Another reload was asked for before generation @CLUSTERD_GENERATION@ was committed; it was dropped for the newer "
    "one. Whoever asked for the first is told with an exit status of its own (3).",
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
    "clients are answered 503. Starting is tried again and again, with growing delays ([restart]).",
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
MASTER_DIED = Message(
    "b1f579f44f59457b8d67b20561964277",
    Priority.ERROR,
    "The master of @CLUSTERD_APP@ died, another is started",
    "The process that manages the workers of @CLUSTERD_APP@ ended or hung. The workers serve on meanwhile, and the "
    "next master takes them over.",
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
    "No worker of @CLUSTERD_APP@ became ready. The service tries again by itself, with growing delays, and answers 503 "
    "meanwhile; once the application is repaired it serves without any command.",
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
KEEPER_REPLACED = Message(
    "feca8eed02d64c628a3541a1229a8975",
    Priority.WARNING,
    "The keeper of @CLUSTERD_APP@ was replaced",
    "The process that holds the sockets and restarts the master ended; the master has started another, which holds "
    "the same.",
)
PORT_SHARED = Message(
    "d6936692611d4f6eb84da75fae9b9dbb",
    Priority.ERROR,
    "Another program listens on an address of @CLUSTERD_APP@",
    "A program that does not belong to @CLUSTERD_APP@ has the same address open with SO_REUSEPORT. The kernel gives it "
    "a part of the connections, or all of them. Stop the program, or change listen in one of the two.",
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
