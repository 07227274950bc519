"""Plots of records as SVG text that needs nothing beside it: speed over recall, and speed over memory at one recall.

An engine has one colour and mark in all plots. Related engines have related colours: inverted lists warm, graphs blue,
RaBitQ violet.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from records import Record

LOWEST_RECALL = 0.80
HIGHEST_RECALL = 0.9995
RECALL_TICKS = (0.80, 0.90, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
WIDTH, HEIGHT = 1060, 600
LEFT, RIGHT, TOP, BOTTOM = 78, 800, 74, 540
LEGEND_STEP = 41
HIGHLIGHTED = "bigrain"
GREY, GRID = "#667085", "#e4e7ec"

# Engine: colour, mark.
LOOKS = {
    "bigrain": ("#d92d20", "circle"),
    "faiss": ("#b54708", "square"),
    "faiss-rabitq": ("#f79009", "diamond"),
    "scann": ("#4e7c0f", "triangle"),
    "hnswlib": ("#175cd3", "square"),
    "usearch": ("#2e90fa", "circle"),
    "glass": ("#06aed4", "diamond"),
    "diskann": ("#0e7090", "triangle"),
    "rabitq-ivf": ("#6927da", "square"),
    "rabitq-hnsw": ("#9e77ed", "circle"),
    "symphonyqg": ("#dd2590", "diamond"),
}
OTHER_LOOKS = (("#475467", "circle"), ("#101828", "square"), ("#98a2b3", "triangle"), ("#7a5c3e", "diamond"))


@dataclass(frozen=True)
class Line:
    """What is drawn for one engine: its frontier by rising recall, and how its memory is put into words."""

    engine: str
    frontier: list[Record]
    memory: str

    def above(self, recall: float) -> Line:
        """What of it reaches a recall."""
        return replace(self, frontier=[record for record in self.frontier if record["recall"] >= recall])


@dataclass(frozen=True)
class Axis:
    """Values between two bounds, placed on pixels between two positions by a monotone scale."""

    lowest: float
    highest: float
    start: float
    end: float
    scale: Callable[[float], float] = math.log

    def place(self, value: float) -> float:
        """The position of a value; one beyond a bound is drawn at it."""
        value = min(max(value, self.lowest), self.highest)
        low, high = self.scale(self.lowest), self.scale(self.highest)
        return self.start + (self.scale(value) - low) / (high - low) * (self.end - self.start)


def misses(recall: float) -> float:
    """A scale of recall on which every halving of the misses is as wide as the next."""
    return -math.log(1 - recall)


def frontier_plot(title: str, note: str, lines: list[Line]) -> str:
    """Queries a second over recall, a line an engine, the legend in the order given; empty where nothing is to draw."""
    shown = [line.above(LOWEST_RECALL) for line in lines]
    shown = [line for line in shown if line.frontier]
    if not shown:
        return ""
    rates = [record["qps"] for line in shown for record in line.frontier]
    recall_axis = Axis(LOWEST_RECALL, HIGHEST_RECALL, LEFT, RIGHT - 16, misses)
    rate_axis = Axis(min(rates) * 0.85, max(rates) * 1.2, BOTTOM, TOP)
    parts = frame(title, note, "recall", "queries a second")
    ticks = [(recall_axis.place(recall), f"{recall:g}") for recall in RECALL_TICKS]
    parts += vertical_grid([*ticks, (recall_axis.end, f"{HIGHEST_RECALL:g}+")])
    parts += horizontal_grid(rate_axis)
    looks = looks_of([line.engine for line in shown])
    # The highlighted engine is drawn last, above the others.
    for line in sorted(shown, key=lambda line: line.engine == HIGHLIGHTED):
        parts += engine_line(line, looks[line.engine], recall_axis, rate_axis)
    for position, line in enumerate(shown):
        parts += legend_entry(line.engine, line.memory, looks[line.engine], position, lined=True)
    return "".join([*parts, "</svg>\n"])


def memory_plot(title: str, note: str, fastest: list[Record]) -> str:
    """Queries a second over bytes a row in memory, a mark an index; empty where nothing is to draw."""
    known = [record for record in fastest if record.get("memory_bytes_per_row")]
    if not known:
        return ""
    sizes, rates = [r["memory_bytes_per_row"] for r in known], [r["qps"] for r in known]
    size_axis = Axis(min(sizes) * 0.7, max(sizes) * 1.4, LEFT, RIGHT - 16)
    rate_axis = Axis(min(rates) * 0.7, max(rates) * 1.4, BOTTOM, TOP)
    parts = frame(title, note, "bytes a row in memory", "queries a second")
    ticks = log_ticks(size_axis.lowest, size_axis.highest)
    parts += vertical_grid([(size_axis.place(size), f"{size:,.0f}") for size in ticks])
    parts += horizontal_grid(rate_axis)
    engines = list(dict.fromkeys(record["engine"] for record in known))
    looks = looks_of(engines)
    for record in known:
        x, y = size_axis.place(record["memory_bytes_per_row"]), rate_axis.place(record["qps"])
        parts.append(mark(looks[record["engine"]], x, y, 6.5, tooltip(record)))
    for position, engine in enumerate(engines):
        own = [record["memory_bytes_per_row"] for record in known if record["engine"] == engine]
        parts += legend_entry(engine, bytes_range(own), looks[engine], position, lined=False)
    return "".join([*parts, "</svg>\n"])


def bytes_range(sizes: list[float]) -> str:
    """Bytes a row, from the smallest to the largest of `sizes`."""
    if not sizes:
        return "memory unknown"
    low, high = f"{min(sizes):,.0f}", f"{max(sizes):,.0f}"
    return f"{low} bytes a row" if low == high else f"{low} to {high} bytes a row"


def looks_of(engines: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of each engine; those that are not known here get what is left."""
    others = [engine for engine in engines if engine not in LOOKS]
    return LOOKS | {engine: OTHER_LOOKS[i % len(OTHER_LOOKS)] for i, engine in enumerate(others)}


def frame(title: str, note: str, across: str, up: str) -> list[str]:
    """The opening tag, the background, title and names of the axes."""
    label = html.escape(f"{title}: {up} over {across}")
    middle = (LEFT + RIGHT) / 2
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        'font-family="Inter, Helvetica, Arial, sans-serif" font-size="13" fill="#101828">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="30" font-size="19" font-weight="600">{html.escape(title)}</text>',
        f'<text x="{LEFT}" y="52" fill="{GREY}">{html.escape(note)}</text>',
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{across}</text>',
        f'<text transform="translate(18 {(TOP + BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{up}</text>',
    ]


def vertical_grid(ticks: list[tuple[float, str]]) -> list[str]:
    """Lines up from labels below the plot."""
    return [
        f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}" stroke="{GRID}"/>'
        f'<text x="{x:.1f}" y="{BOTTOM + 20}" fill="{GREY}" text-anchor="middle">{label}</text>'
        for x, label in ticks
    ]


def horizontal_grid(axis: Axis) -> list[str]:
    """Lines across at round rates, labels left of the plot."""
    return [
        f'<line x1="{LEFT}" y1="{axis.place(rate):.1f}" x2="{RIGHT - 16}" y2="{axis.place(rate):.1f}" stroke="{GRID}"/>'
        f'<text x="{LEFT - 8}" y="{axis.place(rate) + 4.5:.1f}" fill="{GREY}" text-anchor="end">{rate:,.0f}</text>'
        for rate in log_ticks(axis.lowest, axis.highest)
    ]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the bounds."""
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return [tick for tick in ticks if lowest <= tick <= highest]


def engine_line(line: Line, look: tuple[str, str], recall_axis: Axis, rate_axis: Axis) -> list[str]:
    """The frontier of an engine: a line and a mark a setting."""
    colour, _ = look
    points = [(recall_axis.place(r["recall"]), rate_axis.place(r["qps"])) for r in line.frontier]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = 3.5 if line.engine == HIGHLIGHTED else 1.8
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'
    size = 5.5 if line.engine == HIGHLIGHTED else 4
    return [drawn, *(mark(look, x, y, size, tooltip(r)) for (x, y), r in zip(points, line.frontier, strict=True))]


def tooltip(record: Record) -> str:
    """What a viewer shows where the pointer rests on a mark."""
    figures = f"recall {record['recall']:.4f}, {record['qps']:,.0f} queries a second"
    return f"{record['engine']} {record['index']}: {record.get('setting', '')}, {figures}"


def mark(look: tuple[str, str], x: float, y: float, size: float, title: str = "") -> str:
    """A shape of about equal area for each kind of mark, edged in white so that marks on top of others stand out."""
    colour, shape = look
    inner = f"<title>{html.escape(title)}</title>" if title else ""
    style = f'fill="{colour}" stroke="#ffffff" stroke-width="1"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {style}>{inner}</circle>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "triangle": [(0, -1.25), (1.2, 0.95), (-1.2, 0.95)],
    }[shape]
    path = " ".join(f"{x + size * across:.1f},{y + size * down:.1f}" for across, down in corners)
    return f'<polygon points="{path}" {style}>{inner}</polygon>'


def legend_entry(engine: str, memory: str, look: tuple[str, str], position: int, lined: bool) -> list[str]:
    """Name and memory of an engine, right of the plot; `lined` where its marks are joined by a line."""
    x, y, (colour, _) = RIGHT + 6, TOP + 16 + LEGEND_STEP * position, look
    width, weight = (3.5, 700) if engine == HIGHLIGHTED else (1.8, 500)
    line = f'<line x1="{x}" y1="{y - 4}" x2="{x + 28}" y2="{y - 4}" stroke="{colour}" stroke-width="{width}"/>'
    return [
        *([line] if lined else []),
        mark(look, x + 14, y - 4, 5),
        f'<text x="{x + 38}" y="{y}" font-size="14" font-weight="{weight}">{html.escape(engine)}</text>',
        f'<text x="{x + 38}" y="{y + 16}" fill="{GREY}" font-size="12">{html.escape(memory)}</text>',
    ]
