"""docs/benchmarks.svg: the main figures as bars. One file for light and dark: the colours ask the reader's setting."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from statistics import median

from page import Figures, number
from servers import Server

WIDTH, LABEL, GAP, BAR, STEP = 900, 158, 40, 13, 20
PANEL = (WIDTH - 3 * GAP) // 2

LIGHT = {
    "page": "#ffffff",
    "text": "#1f2328",
    "soft": "#59636e",
    "peer": "#b3bcc7",
    "ours": "#1f6feb",
    "line": "#d1d9e0",
}
DARK = {
    "page": "#0d1117",
    "text": "#e6edf3",
    "soft": "#9198a1",
    "peer": "#4a5562",
    "ours": "#58a6ff",
    "line": "#3d444d",
}


@dataclass(frozen=True)
class Panel:
    key: str
    title: str
    digits: int = 0


PANELS = [
    Panel("wrk rate", "Requests a second, 64 kept connections"),
    Panel("ab rate", "Requests a second, a connection each"),
    Panel("reload failures", "Requests failed while all workers are reloaded"),
    Panel("memory worker", "Memory of one more worker, 100 MB application (MB)"),
]


def render(servers: list[type[Server]], figures: Figures, head: str, scheme: str = "auto") -> str:
    """`scheme` is "light" or "dark" for a picture of that one, without the question."""
    shown = [panel for panel in PANELS if any((panel.key, server.name) in figures for server in servers)]
    kinds = list(dict.fromkeys(server.kind for server in servers))
    tall = 34 + len(servers) * STEP + len(kinds) * 14
    height = 40 + -(-len(shown) // 2) * (tall + 20)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>{escape('clusterd beside its peers: ' + '; '.join(panel.title for panel in shown))}</title>",
        f"<style>{style(scheme)}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
    ]
    for index, panel in enumerate(shown):
        x = GAP + index % 2 * (PANEL + GAP)
        y = 30 + index // 2 * (tall + 20)
        lines += bars(panel, servers, figures, x, y)
    lines.append(f'<text class="soft" x="{GAP}" y="{height - 12}" font-size="11">{escape(head)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def style(scheme: str) -> str:
    if scheme == "auto":
        return rules(LIGHT) + "@media (prefers-color-scheme: dark) {" + rules(DARK) + "}"
    return rules(DARK if scheme == "dark" else LIGHT)


def rules(colours: dict[str, str]) -> str:
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in colours.items())
    return fills + f".axis{{stroke:{colours['line']}}}"


def bars(panel: Panel, servers: list[type[Server]], figures: Figures, x: int, y: int) -> list[str]:
    found = {
        server: median(figures[panel.key, server.name]) for server in servers if (panel.key, server.name) in figures
    }
    most = max(found.values()) or 1.0
    room = PANEL - LABEL - 60  # for the figure after the longest bar
    lines = [f'<text class="text" x="{x}" y="{y}" font-weight="600" font-size="13">{escape(panel.title)}</text>']
    y += 10
    top, kind = y, ""
    for server in servers:
        if server.kind != kind:
            kind = server.kind
            y += 14
            lines.append(f'<text class="soft" x="{x}" y="{y - 2}" font-size="10">{escape(kind)}</text>')
        lines += bar(panel, server, found.get(server), most, room, x, y)
        y += STEP
    lines.append(f'<line class="axis" x1="{x + LABEL}" x2="{x + LABEL}" y1="{top}" y2="{y}"/>')
    return lines


def bar(panel: Panel, server: type[Server], value: float | None, most: float, room: int, x: int, y: int) -> list[str]:
    ours = server.title.startswith("clusterd")
    weight = ' font-weight="600"' if ours else ""
    line = y + BAR - 2
    lines = [
        f'<text class="text" x="{x + LABEL - 8}" y="{line}" text-anchor="end"{weight}>{escape(server.title)}</text>'
    ]
    if value is None:
        return [*lines, f'<text class="soft" x="{x + LABEL + 6}" y="{line}">not offered</text>']
    width = round(room * value / most, 1)
    colour = "ours" if ours else "peer"
    lines.append(f'<rect class="{colour}" x="{x + LABEL}" y="{y}" width="{max(width, 1)}" height="{BAR}" rx="2"/>')
    text = number(value, panel.digits)
    lines.append(f'<text class="text" x="{x + LABEL + width + 6}" y="{line}"{weight}>{text}</text>')
    return lines
