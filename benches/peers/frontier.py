#!/usr/bin/env python3
"""Merge files of records into a table for reading and a page with plots.

    frontier.py peers.jsonl bigrain.jsonl --markdown table.md --html frontier.html

For every data set and index, the table gives the most queries a second among the settings that reach recall .90, .95
and .99 (no interpolation: a measured setting reaches the target or it does not). The page shows the Pareto frontiers,
recall against queries a second; it is one file of HTML and SVG that needs no network. Without options the table goes to
stdout.
Several files may hold the same setting: all points are used.
"""

from __future__ import annotations

import argparse
import html
import math
import sys
from collections import defaultdict
from pathlib import Path

from records import Record, RecordError, read

TARGETS = (0.90, 0.95, 0.99)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 460, 70, 50, 20
PLOT_RIGHT = WIDTH - 20
LOWEST_RECALL = 0.80
HIGHEST_RECALL = 0.9999
RECALL_TICKS = (0.80, 0.90, 0.95, 0.98, 0.99, 0.995, 0.999)
COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#00798c", "#8d5524", "#555555")
STYLE = (
    "body{font:15px sans-serif;max-width:900px;margin:2em auto} table{border-collapse:collapse} "
    "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd} "
    "td:first-child,th:first-child{text-align:left}"
)

Series = dict[tuple[str, str], list[Record]]


def main() -> int:
    """Read the records, write the table and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files of records")
    parser.add_argument("--markdown", type=Path, help="write the table here instead of stdout")
    parser.add_argument("--html", type=Path, help="write the page here")
    arguments = parser.parse_args()
    try:
        records = [record for path in arguments.files for record in read(path)]
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sets = by_dataset(records)
    table = markdown(sets)
    if arguments.markdown:
        arguments.markdown.write_text(table)
    else:
        print(table, end="")
    if arguments.html:
        arguments.html.write_text(page(sets))
    return 0


def by_dataset(records: list[Record]) -> dict[str, Series]:
    """The records of each data set, by engine and index, in the order of the files."""
    sets: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for record in records:
        sets[record["dataset"]][record["engine"], record["index"]].append(record)
    return sets


def pareto(records: list[Record]) -> list[Record]:
    """Those that no other record beats in queries a second at no less recall, by rising recall."""
    frontier: list[Record] = []
    for record in sorted(records, key=lambda record: (-record["recall"], -record["qps"])):
        if not frontier or record["qps"] > frontier[-1]["qps"]:
            frontier.append(record)
    return frontier[::-1]


def fastest_at(records: list[Record], target: float) -> Record | None:
    """The record of most queries a second among those that reach the recall `target`."""
    reaching = [record for record in records if record["recall"] >= target]
    return max(reaching, key=lambda record: record["qps"], default=None)


def table_rows(series: Series) -> list[list[str]]:
    """Header and one row an index: queries a second (and processor time a query) at each target, memory a row."""
    header = [
        "engine",
        "index",
        *(f"QPS at {target:.2f}" for target in TARGETS),
        "bytes a row",
        "of these codes",
        "build s",
    ]
    rows = [header]
    for (engine, index), records in series.items():
        best = [fastest_at(records, target) for target in TARGETS]
        memory = [number(records[0].get(name)) for name in ("memory_bytes_per_row", "code_bytes_per_row", "build_s")]
        rows.append([engine, index, *(cell(record) for record in best), *memory])
    return rows


def cell(record: Record | None) -> str:
    """Queries a second and, where known, processor time a query."""
    if record is None:
        return "not reached"
    cpu = record.get("cpu_us")
    return f"{record['qps']:,.0f}" + (f" ({cpu:.0f} us cpu)" if cpu is not None else "")


def number(value: float | None) -> str:
    """A whole number, or a dash for one that is not known."""
    return "-" if value is None else f"{value:,.0f}"


def markdown(sets: dict[str, Series]) -> str:
    """The tables of all data sets."""
    parts = []
    for dataset, series in sets.items():
        header, *rows = table_rows(series)
        lines = [f"## {dataset}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", conditions(series), ""]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def conditions(series: Series) -> str:
    """Under what the figures were taken: k, threads, machines, load."""
    records = [record for group in series.values() for record in group]
    k = " and ".join(str(k) for k in sorted({record["k"] for record in records}))
    machines = sorted({record["machine"] for record in records if "machine" in record})
    loads = [record["load"] for record in records if "load" in record]
    turns = max((record.get("repetitions", 1) for record in records), default=1)
    load = f"; load when started {min(loads)} to {max(loads)}" if loads else ""
    where = "; ".join(machines) or "machine not recorded"
    return f"k = {k}, one thread, one query a call, medians of up to {turns} turns; {where}{load}."


def page(sets: dict[str, Series]) -> str:
    """The self-contained HTML page."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Recall and queries a second</title>"]
    parts.append(f"<style>{STYLE}</style><h1>Recall and queries a second</h1>")
    for dataset, series in sets.items():
        parts.append(f"<h2>{html.escape(dataset)}</h2>{plot(series)}{html_table(table_rows(series))}")
        parts.append(f"<p>{html.escape(conditions(series))} Rest the pointer on a dot for its setting.</p>")
    return "\n".join(parts) + "\n</html>\n"


def html_table(rows: list[list[str]]) -> str:
    """Rows of text as a table whose first row is the header."""
    lines = []
    for position, row in enumerate(rows):
        tag = "th" if position == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row))
    return "<table>" + "\n".join(lines) + "</table>"


def plot(series: Series) -> str:
    """Pareto frontiers as SVG: recall on a scale of -log(1 - recall), queries a second on a log scale."""
    frontiers = {
        name: [record for record in pareto(records) if record["recall"] >= LOWEST_RECALL]
        for name, records in series.items()
    }
    rates = [record["qps"] for records in frontiers.values() for record in records]
    if not rates:
        return f"<p>No setting reaches recall {LOWEST_RECALL}.</p>"
    lowest, highest = min(rates) * 0.8, max(rates) * 1.25
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="queries a second against recall">']
    parts += grid(lowest, highest)
    for position, ((engine, index), records) in enumerate(frontiers.items()):
        colour = COLOURS[position % len(COLOURS)]
        points = [(recall_x(record["recall"]), rate_y(record["qps"], lowest, highest)) for record in records]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for record, (x, y) in zip(records, points, strict=True):
            figures = f"recall {record['recall']:.4f}, {record['qps']:,.0f} QPS"
            title = html.escape(f"{engine} {index}: {record.get('setting', '')}, {figures}")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{title}</title></circle>')
        legend_y = HEIGHT - BOTTOM - 14 - 16 * (len(frontiers) - 1 - position)
        label = html.escape(f"{engine} {index}")
        parts.append(f'<text x="{LEFT + 12}" y="{legend_y}" fill="{colour}" font-size="13">{label}</text>')
    return "".join(parts) + "</svg>"


def grid(lowest: float, highest: float) -> list[str]:
    """Lines and labels of both axes."""
    parts = []
    floor = HEIGHT - BOTTOM
    for recall in RECALL_TICKS:
        x = recall_x(recall)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{floor}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 18}" font-size="12" text-anchor="middle">{recall:g}</text>')
    for rate in rate_ticks(lowest, highest):
        y = rate_y(rate, lowest, highest)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{PLOT_RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" font-size="12" text-anchor="end">{rate:,.0f}</text>')
    middle = (LEFT + PLOT_RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" font-size="13" text-anchor="middle">recall</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 6}" font-size="13" text-anchor="end">QPS</text>')
    return parts


def rate_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the bounds."""
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return [tick for tick in ticks if lowest <= tick <= highest]


def recall_x(recall: float) -> float:
    """Horizontal position: each factor of ten in misses is as wide as the next."""
    share = math.log((1 - LOWEST_RECALL) / (1 - min(recall, HIGHEST_RECALL))) / math.log(
        (1 - LOWEST_RECALL) / (1 - HIGHEST_RECALL)
    )
    return LEFT + share * (PLOT_RIGHT - LEFT)


def rate_y(rate: float, lowest: float, highest: float) -> float:
    """Vertical position of queries a second."""
    share = math.log(rate / lowest) / math.log(highest / lowest)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


if __name__ == "__main__":
    sys.exit(main())
