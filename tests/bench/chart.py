"""docs/benchmarks.svg: the main figures as bars. One file for light and dark: the colours ask the reader's setting."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from page import Failures, Figures, number, ours, ratio
from servers import Server

WIDTH, LABEL, GAP, BAR, STEP = 900, 168, 24, 11, 17
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
    leg: str
    key: str
    title: str
    better: str
    count: bool = False
    """show what was counted, over all rounds, instead of the ratio"""


PANELS = [
    Panel("wrk", "wrk rate", "Requests a second, kept connections", "ratio, more is better"),
    Panel("reload", "reload failures", "Requests failed at reloads", "count, 0 is right", count=True),
    Panel("memory", "memory worker", "Memory of a further worker (100 MB)", "ratio, less is better"),
    Panel("crash", "crash", "Time to a dead worker's successor", "ratio, less is better"),
]


def render(servers: list[type[Server]], figures: Figures, failures: Failures, foot: str, scheme: str = "auto") -> str:
    """`scheme` is "light" or "dark" for a picture of that one, without the question."""
    shown = [panel for panel in PANELS if any((panel.key, server.name) in figures for server in servers)]
    kinds = list(dict.fromkeys(server.kind for server in servers))
    tall = 40 + len(servers) * STEP + len(kinds) * 14
    height = 56 + -(-len(shown) // 2) * (tall + 20)
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
        lines += bars(panel, servers, figures, failures, x, y)
    about = "Ratios are to the first peer of the kind: uvicorn, gunicorn with threads, Node's cluster (line at 1)."
    for y, text in ((height - 28, about), (height - 12, foot)):
        lines.append(f'<text class="soft" x="{GAP}" y="{y}" font-size="11">{escape(text)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def style(scheme: str) -> str:
    if scheme == "auto":
        return rules(LIGHT) + "@media (prefers-color-scheme: dark) {" + rules(DARK) + "}"
    return rules(DARK if scheme == "dark" else LIGHT)


def rules(colours: dict[str, str]) -> str:
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in colours.items())
    return fills + f".axis{{stroke:{colours['line']}}}"


def bars(panel: Panel, servers: list[type[Server]], figures: Figures, failures: Failures, x: int, y: int) -> list[str]:
    found = {server: value(panel, server, figures) for server in servers}
    most = max((v for v in found.values() if v is not None), default=0.0) or 1.0
    room = PANEL - LABEL - 60  # for the figure after the longest bar
    lines = [
        f'<text class="text" x="{x}" y="{y}" font-weight="600" font-size="13">{escape(panel.title)}'
        f'<tspan class="soft" font-weight="400" font-size="11" dx="8">{escape(panel.better)}</tspan></text>'
    ]
    y += 10
    top, kind = y, ""
    marks: list[str] = []
    for server in servers:
        if server.kind != kind:
            kind = server.kind
            y += 14
            marks.append(f'<text class="soft" x="{x}" y="{y - 2}" font-size="10">{escape(kind)}</text>')
        absent = "failed" if (panel.leg, server.name) in failures else "not offered"
        if server.legs is not None and panel.leg not in server.legs:
            absent = "-"
        marks += bar(panel, server, found[server], absent, most, room, x, y)
        y += STEP
    lines.append(f'<line class="axis" x1="{x + LABEL}" x2="{x + LABEL}" y1="{top}" y2="{y}"/>')
    if not panel.count:
        one = round(x + LABEL + room / most, 1)
        lines.append(f'<line class="axis" x1="{one}" x2="{one}" y1="{top}" y2="{y}" stroke-dasharray="3 3"/>')
    return [*lines, *marks]


def value(panel: Panel, server: type[Server], figures: Figures) -> float | None:
    if panel.count:
        counts = figures.get((panel.key, server.name))
        return sum(counts) if counts else None
    return ratio(panel.key, server, figures)


def bar(
    panel: Panel, server: type[Server], value: float | None, absent: str, most: float, room: int, x: int, y: int
) -> list[str]:
    weight = ' font-weight="600"' if ours(server) else ""
    line = y + BAR - 2
    lines = [
        f'<text class="text" x="{x + LABEL - 8}" y="{line}" text-anchor="end"{weight}>{escape(server.title)}</text>'
    ]
    if value is None:
        return [*lines, f'<text class="soft" x="{x + LABEL + 6}" y="{line}">{absent}</text>']
    width = round(room * value / most, 1)
    colour = "ours" if ours(server) else "peer"
    if value:
        lines.append(f'<rect class="{colour}" x="{x + LABEL}" y="{y}" width="{max(width, 1)}" height="{BAR}" rx="2"/>')
    text = number(value, 0 if panel.count else 2)
    lines.append(f'<text class="text" x="{x + LABEL + width + 6}" y="{line}"{weight}>{text}</text>')
    return lines
