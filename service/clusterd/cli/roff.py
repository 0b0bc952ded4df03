"""Plain text as man(7) macros: escapes, and the few shapes clusterd(8) is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable


def escape(text: str) -> str:
    """Text that roff prints as it is: hyphens that can be copied, no line that begins a macro."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return "\n".join("\\&" + line if line.startswith(".") else line for line in text.split("\n"))


def prose(text: str) -> str:
    """A paragraph: **bold** and _placeholder_ marked as in the sources of this manual, the rest escaped."""
    parts = re.split(r"(\*\*.+?\*\*|(?<![A-Za-z0-9])_[A-Z.]+_)", " ".join(text.split()))
    return "".join(_marked(part) for part in parts)


def _marked(part: str) -> str:
    if part.startswith("**") and part.endswith("**") and len(part) > 4:
        return f"\\fB{escape(part[2:-2])}\\fR"
    if part.startswith("_") and part.endswith("_") and len(part) > 2:
        return f"\\fI{escape(part[1:-1])}\\fR"
    return escape(part)


def title(name: str, section: int, date: str, source: str, manual: str) -> str:
    return f'.TH {name.upper()} {section} "{date}" "{source}" "{manual}"\n.nh\n.ad l'


def section(name: str) -> str:
    return f".SH {name.upper()}"


def subsection(text: str) -> str:
    return f".SS {prose(text)}"


def paragraphs(text: str) -> str:
    """Paragraphs apart by an empty line."""
    return "\n".join(f".PP\n{prose(part)}" for part in text.strip().split("\n\n"))


def item(term: str, text: str) -> str:
    """A term and its explanation; further paragraphs of the explanation apart by an empty line."""
    first, *rest = text.strip().split("\n\n")
    lines = [f".TP\n{prose(term)}\n{prose(first)}", *(f".IP\n{prose(part)}" for part in rest)]
    return "\n".join(lines)


def items(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(item(term, text) for term, text in pairs)


def example(lines: str) -> str:
    """Verbatim lines, indented."""
    return f".PP\n.RS 4\n.nf\n{escape(lines.strip(chr(10)))}\n.fi\n.RE"
