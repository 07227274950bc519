"""One record a measured setting: its fields, how repetitions become one record, how records are kept in files.

A record is a flat JSON object, one a line of a file:

| field | meaning |
|---|---|
| engine, index, setting, dataset | who was measured: engine, how the index was made, search parameters, folder name |
| k, recall | recall@k in [0, 1] against exact scores; a row that ties with the k-th counts as found |
| qps, p50_us, p99_us | by wall time, one thread, one query at a time; medians of the repetitions |
| qps_lowest, qps_highest, repetitions | the spread of the repetitions and their number |
| cpu_us | processor time a query, which other work on the machine disturbs less than wall time; null if unknown |
| call_overhead_us | the same call on an index of a few rows: what the binding costs; null if unknown |
| memory_bytes_per_row | the whole index, with the vectors it keeps in memory to rescore candidates; null if unknown |
| code_bytes_per_row | the same without those vectors |
| build_s | seconds of training, adding and writing, whenever it was built; null if unknown |
| machine, load | processor and load average when the measurement began |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]

TIMINGS = ("qps", "p50_us", "p99_us", "cpu_us")
SETTING_FIELDS = ("nprobe", "candidates", "recall_target", "threads", "batch", "store")


class RecordError(Exception):
    """A file that holds no records; the message names it."""


def machine() -> str:
    """The processor's name and the number of cores this process may use."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "unknown processor"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def median_record(repetitions: list[Record]) -> Record:
    """One record of the medians of `repetitions` (at least one) of the same setting."""
    merged = dict(repetitions[0])
    for field in TIMINGS:
        values = [record[field] for record in repetitions if record.get(field) is not None]
        merged[field] = round(median(values), 2) if values else None
    rates = [record["qps"] for record in repetitions]
    merged |= {"qps_lowest": round(min(rates), 2), "qps_highest": round(max(rates), 2), "repetitions": len(rates)}
    return merged


def from_measure_recall(report: Record, engine: str, dataset: str, k: int) -> list[Record]:
    """Records of a `measure-recall --json` report, of its results at `k` alone."""
    about = report.get("index", {})
    return [
        {
            "engine": engine,
            "index": str(about.get("description", engine)),
            "setting": ",".join(f"{name}={result[name]}" for name in SETTING_FIELDS if result.get(name) is not None),
            "dataset": dataset,
            "k": k,
            "recall": result["recall"],
            "qps": result["qps"],
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "cpu_us": None,
            "call_overhead_us": None,
            "memory_bytes_per_row": about.get("memory_bytes_per_row"),
            "code_bytes_per_row": about.get("memory_bytes_per_row"),
            "build_s": about.get("build_s"),
        }
        for result in report["results"]
        if result["k"] == k
    ]


def write(path: Path, records: Iterable[Record]) -> None:
    """Write one record a line, replacing the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """The records of a file that `write` wrote."""
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line]
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not one JSON object a line: {error}") from error
    for number, record in enumerate(records, start=1):
        missing = [name for name in ("engine", "index", "dataset", "k", "recall", "qps") if name not in record]
        if missing:
            raise RecordError(f"{path}: record {number} has no {missing[0]}; write such files with run.py")
    return records
