"""What every peer is measured by: a prepared data set, the timed loop, recall from true scores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_QUERIES = 200
QUERY_BLOCK = 256
TRUTH_K = 100


@dataclass(frozen=True)
class Dataset:
    """A folder made by `fetch_datasets.py`: f32 vectors (unit rows for cosine) and exact nearest rows."""

    name: str
    metric: str
    base: np.ndarray
    queries: np.ndarray
    truth: np.ndarray

    @classmethod
    def open(cls, folder: Path, queries: int | None, rows: int | None = None) -> Dataset:
        """Load `folder`, keeping the first `queries` queries and the first `rows` rows (all if None).

        Of fewer rows the nearest are searched here, exactly.
        """
        about = json.loads((folder / "dataset.json").read_text())
        base, kept = np.load(folder / "base.npy")[:rows], np.load(folder / "queries.npy")[:queries]
        if about["metric"] == "cosine":
            base, kept = unit_rows(base), unit_rows(kept)
        truth = np.load(folder / "truth.npy")[:queries] if rows is None else nearest(base, kept)
        return cls(folder.name, about["metric"], base, kept, truth)


@dataclass(frozen=True)
class Timing:
    """One pass over the queries: rows found (queries x k, -1 where none) and what it took."""

    rows: np.ndarray
    wall_s: float
    cpu_s: float
    latencies_us: np.ndarray

    def fields(self) -> dict[str, float]:
        """The timing fields of a record."""
        return {
            "qps": round(len(self.rows) / self.wall_s, 2),
            "p50_us": round(float(np.percentile(self.latencies_us, 50)), 2),
            "p99_us": round(float(np.percentile(self.latencies_us, 99)), 2),
            "cpu_us": round(self.cpu_s * 1e6 / len(self.rows), 2),
        }


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm, f32."""
    wide = matrix.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def nearest(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The rows nearest to each query (queries x 100, or as many as there are), nearest first, by f64 distances.

    For rows and queries of unit length these are also those of the largest inner product.
    """
    wide = base.astype(np.float64)
    norms = np.square(wide).sum(axis=1)
    distances = [norms - 2 * wide @ query.astype(np.float64) for query in queries]
    return np.array([np.argsort(row, kind="stable")[:TRUTH_K] for row in distances])


def time_queries(search: Callable[[Any], np.ndarray], queries: list[Any], k: int) -> Timing:
    """Call `search` for one query after the other, in this thread, once the first few have warmed it up.

    `queries` are in the form that `search` takes, so that no conversion is timed.
    """
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    ticks = np.empty(len(queries) + 1, dtype=np.int64)
    cpu_start = time.thread_time()
    ticks[0] = time.perf_counter_ns()
    for i, query in enumerate(queries):
        found = search(query)
        rows[i, : len(found)] = found
        ticks[i + 1] = time.perf_counter_ns()
    cpu_s = time.thread_time() - cpu_start
    return Timing(rows, int(ticks[-1] - ticks[0]) / 1e9, cpu_s, np.diff(ticks) / 1e3)


def recall_at(dataset: Dataset, rows: np.ndarray, k: int) -> float:
    """Mean share of the k best that `rows` (queries x k) holds, decided by true scores.

    A row counts if its exact score reaches that of the k-th row of the truth, so ties count whichever row is named; a
    row named twice counts once. The tolerance (1e-6 of the score) is that of vectors rounded to f32.
    """
    found = 0
    for start in range(0, len(rows), QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        queries = dataset.queries[block].astype(np.float64)
        worst = true_scores(dataset, queries, dataset.truth[block, k - 1 : k])
        reached = true_scores(dataset, queries, rows[block]) >= worst - 1e-6 * np.abs(worst)
        for hits, named in zip(reached & (rows[block] >= 0), rows[block], strict=True):
            found += len(np.unique(named[hits]))
    return found / (len(rows) * k)


def true_scores(dataset: Dataset, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Exact scores (queries x rows of each), f64, larger is better: inner product, or minus the squared L2 distance."""
    vectors = dataset.base[rows].astype(np.float64)
    if dataset.metric == "l2":
        return -np.square(vectors - queries[:, None, :]).sum(axis=2)
    return np.einsum("qd,qrd->qr", queries, vectors)
