"""docs/mistakes.md as the tests read it: a section, its mistakes, and exactly what each prints."""

from __future__ import annotations

import re

from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "mistakes.md"


def sections() -> dict[str, dict[str, str]]:
    """By section and mistake, what is printed."""
    _, *parts = re.split(r"^## ([^\n]+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return {
        title: dict(re.findall(r"^### ([^\n]+)\n\n```text\n(.*?)```$", text, re.MULTILINE | re.DOTALL))
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def unnumbered(text: str) -> str:
    """`text` with the numbers of workers and slots, which depend on what went before, as the page has them."""
    return re.sub(r"worker \d+ \(slot \d+\)", "worker 3 (slot 0)", text)
