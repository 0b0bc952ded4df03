"""Whether the sockets that systemd passed are those of the file, and nobody else's."""

from __future__ import annotations

from clusterd.config.settings import Settings
from clusterd.core.model import Cluster
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.shell import messages


def objection(context: Context, settings: Settings, cluster: Cluster) -> str | None:
    """Why a generation with these settings must not be started on the sockets there are; None: it may.

    An address nobody listens on, or one shared with a stranger, fails a start: both lose connections without a trace.
    What serves already is not refused a reload for a stranger, which it would not rid it of; it is told in the journal.
    """
    strangers = context.slots.strangers()
    if next(cluster.accepting(), None) is None:
        missing = context.slots.missing(context.name, settings.listen, context.place.tool("clusterd"))
        return missing or ("; ".join(strangers) + ": stop it, or listen elsewhere" if strangers else None)
    tell_strangers(context, strangers)
    return None


def tell_strangers(context: Context, strangers: list[str]) -> None:
    for line in strangers:
        context.journal.record(messages.PORT_SHARED, line)


def shortage(context: Context, ledger: Ledger) -> str:
    """What is not as the file has it, though it is served; "" for nothing."""
    settings = ledger.running
    if settings is None:
        return ""
    return context.slots.shortage(context.name, settings.listen, settings.slots, context.place.tool("clusterd")) or ""
