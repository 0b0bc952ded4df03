"""Which message each happening is told under: what a person searches for apart has an id of its own."""

from __future__ import annotations

import re
from pathlib import Path

from clusterd.core.actions import What
from clusterd.master import telling
from clusterd.shell import messages


def test_each_happening_has_its_own() -> None:
    """No two happenings share a MESSAGE_ID, and the core has none that nobody tells."""
    told = [*telling.MESSAGES.values(), *telling.OTHERS.values()]
    assert set(telling.MESSAGES) == set(What)
    assert len({message.id for message in told}) == len(told)


def test_no_message_is_idle(project: Path) -> None:
    """Each entry of the catalog is told somewhere."""
    source = "".join(path.read_text() for path in (project / "service/clusterd").rglob("*.py"))
    assert set(re.findall(r"messages\.([A-Z_]{2,})\b", source)) == set(messages.MESSAGES)
