#!/usr/bin/env python3
"""Merge files of records into tables for reading, plots, and a page with both.

    frontier.py peers.jsonl bigrain.jsonl --markdown table.md --html frontier.html --svg plots

For every data set, the first table has the most queries a second of each engine among its settings that reach recall
.90, .95 and .99 (no interpolation: a measured setting reaches the target or it does not), and the bytes a row of the
index that does so; the second has the same by index.

The plots, DATASET.frontier.svg and DATASET.memory.svg, show the Pareto frontier of each engine, recall against queries
a second, and queries a second against bytes a row at recall .95. The page is one file of HTML and SVG that needs no
network. Without options the tables go to stdout. Several files may hold the same setting: all points are used.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections import defaultdict
from pathlib import Path

from plot import Line, bytes_range, frontier_plot, memory_plot
from records import Record, RecordError, read

TARGETS = (0.90, 0.95, 0.99)
# Engines are in the order of their speed at this recall, which is also that of the plot of memory.
MIDDLE = TARGETS[1]
STYLE = (
    "body{font:15px sans-serif;max-width:1060px;margin:2em auto} table{border-collapse:collapse;margin:1em 0} "
    "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd} "
    "td:first-child,th:first-child{text-align:left}"
)

Series = dict[tuple[str, str], list[Record]]


def main() -> int:
    """Read the records, write tables, plots and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files of records")
    parser.add_argument("--markdown", type=Path, help="write the tables here instead of stdout")
    parser.add_argument("--html", type=Path, help="write the page here")
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="write the plots here")
    arguments = parser.parse_args()
    try:
        sets = by_dataset([record for path in arguments.files for record in read(path)])
        write_all(sets, arguments)
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_all(sets: dict[str, Series], arguments: argparse.Namespace) -> None:
    """Everything that the command line asks for."""
    for path in (arguments.markdown, arguments.html):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(sets))
    else:
        print(markdown(sets), end="")
    if arguments.html:
        arguments.html.write_text(page(sets))
    if arguments.svg:
        arguments.svg.mkdir(parents=True, exist_ok=True)
        for dataset, series in sets.items():
            for kind, svg in plots(dataset, series).items():
                (arguments.svg / f"{dataset}.{kind}.svg").write_text(svg)


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


def by_engine(series: Series) -> dict[str, list[Record]]:
    """The records of each engine over all its indexes, fastest engine first; those that miss `MIDDLE` come last."""
    engines: dict[str, list[Record]] = defaultdict(list)
    for (engine, _), records in series.items():
        engines[engine] += records

    def speed(engine: str) -> float:
        best = fastest_at(engines[engine], MIDDLE)
        return best["qps"] if best else 0.0

    return {engine: engines[engine] for engine in sorted(engines, key=speed, reverse=True)}


def engine_rows(series: Series) -> list[list[str]]:
    """Header and one row an engine: queries a second at each target, and bytes a row of the index that has them."""
    rows = [["engine", *(head for target in TARGETS for head in (f"QPS at {target:.2f}", "bytes a row"))]]
    for engine, records in by_engine(series).items():
        cells = [engine]
        for target in TARGETS:
            best = fastest_at(records, target)
            if best is None:
                cells += ["not reached", "-"]
            else:
                cells += [f"{best['qps']:,.0f}", number(best.get("memory_bytes_per_row"))]
        rows.append(cells)
    return rows


def index_rows(series: Series) -> list[list[str]]:
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
        tables = [markdown_table(rows) for rows in (engine_rows(series), index_rows(series))]
        parts.append("\n".join([f"## {dataset}", "", tables[0], tables[1], conditions(series), ""]))
    return "\n".join(parts)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of text as a table whose first row is the header; figures to the right, names to the left."""
    header, *body = rows
    sides = ["---" if head in ("engine", "index") else "---:" for head in header]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(sides) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body), ""])


def conditions(series: Series) -> str:
    """Under what the figures were taken: k, threads, machines, load."""
    records = [record for group in series.values() for record in group]
    k = " and ".join(str(k) for k in sorted({record["k"] for record in records}))
    machines = sorted({record["machine"] for record in records if "machine" in record})
    loads = [record["load"] for record in records if "load" in record]
    turns = max((record.get("repetitions", 1) for record in records), default=1)
    load = f"; load when started {bounds(loads)}" if loads else ""
    where = "; ".join(machines) or "machine not recorded"
    often = "one turn" if turns == 1 else f"medians of up to {turns} turns"
    return f"k = {k}, one thread, one query a call, {often}; {where}{load}."


def bounds(values: list[float]) -> str:
    """The least and the largest of `values`, or the one that all are."""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def plots(dataset: str, series: Series) -> dict[str, str]:
    """The plots of a data set as SVG, by kind; one with nothing to draw is left out."""
    lines = []
    for engine, records in by_engine(series).items():
        frontier = pareto(records)
        sizes = [record["memory_bytes_per_row"] for record in frontier if record.get("memory_bytes_per_row")]
        lines.append(Line(engine, frontier, bytes_range(sizes)))
    best = [fastest_at(series[name], MIDDLE) for name in series]
    ordered = sorted((record for record in best if record), key=lambda record: -record["qps"])
    note = conditions(series)
    drawn = {
        "frontier": frontier_plot(f"{dataset}: speed and recall", note, lines),
        "memory": memory_plot(f"{dataset}: speed and memory at recall {MIDDLE}", note, ordered),
    }
    return {kind: svg for kind, svg in drawn.items() if svg}


def page(sets: dict[str, Series]) -> str:
    """The self-contained HTML page."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Recall, speed and memory</title>"]
    parts.append(f"<style>{STYLE}</style><h1>Recall, speed and memory</h1>")
    for dataset, series in sets.items():
        parts.append(f"<h2>{html.escape(dataset)}</h2>")
        parts += plots(dataset, series).values()
        parts += [html_table(engine_rows(series)), html_table(index_rows(series))]
        parts.append(f"<p>{html.escape(conditions(series))} Rest the pointer on a mark for its setting.</p>")
    return "\n".join(parts) + "\n</html>\n"


def html_table(rows: list[list[str]]) -> str:
    """Rows of text as a table whose first row is the header."""
    lines = []
    for position, row in enumerate(rows):
        tag = "th" if position == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row))
    return "<table>" + "\n".join(lines) + "</table>"


if __name__ == "__main__":
    sys.exit(main())
