#!/usr/bin/env python3
"""Build a FAISS index over a vector file and print what it took: seconds of train and add, rows a second, peak memory.

    benches/peers/.venv/bin/python benches/peers/build_faiss.py VECTORS.npy --factory OPQ16,IVF4096,PQ16 --threads 2

The file is memory-mapped and added in batches, so peak memory is the index, the training sample and the pages touched;
FAISS keeps its index in memory until it is written. Prints one JSON object; `--write` keeps the index.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import faiss
import numpy as np

ADD_BATCH = 65_536
ROWS_PER_CENTROID = 256


def main() -> int:
    """Build, time the phases, print the report."""
    arguments = parse_arguments()
    try:
        vectors = np.load(arguments.vectors, mmap_mode="r")
        if vectors.ndim != 2:
            raise ValueError(f"{arguments.vectors} has {vectors.ndim} dimensions; wanted rows x dimension")
        metric = faiss.METRIC_L2 if arguments.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(vectors.shape[1], arguments.factory, metric)
        train_rows = arguments.train_rows or ROWS_PER_CENTROID * faiss.extract_index_ivf(index).nlist
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    faiss.omp_set_num_threads(arguments.threads)
    start = time.perf_counter()
    sample = training_sample(vectors, train_rows, arguments)
    sampled = time.perf_counter()
    index.train(sample)
    trained = time.perf_counter()
    for first in range(0, len(vectors), ADD_BATCH):
        index.add(prepared(vectors[first : first + ADD_BATCH], arguments.metric))
    added = time.perf_counter()
    if arguments.write:
        faiss.write_index(index, str(arguments.write))
    phases = {
        "sample_s": sampled - start,
        "train_s": trained - sampled,
        "add_s": added - trained,
        "total_s": added - start,
    }
    print(json.dumps(report(vectors, len(sample), phases, arguments), indent=2))
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, help=".npy, rows x dimension")
    parser.add_argument("--factory", default="OPQ16,IVF4096,PQ16", help="FAISS index factory string")
    parser.add_argument("--metric", choices=["ip", "cosine", "l2"], default="l2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train-rows", type=int, help=f"default: {ROWS_PER_CENTROID} a list, which FAISS uses at most")
    parser.add_argument("--seed", type=int, default=0, help="of the training sample")
    parser.add_argument("--write", type=Path, help="keep the index in this file")
    return parser.parse_args()


def training_sample(vectors: np.ndarray, wanted: int, arguments: argparse.Namespace) -> np.ndarray:
    """Seeded distinct rows in file order, f32."""
    count = min(wanted, len(vectors))
    rows = np.sort(np.random.default_rng(arguments.seed).choice(len(vectors), count, replace=False))
    return prepared(vectors[rows], arguments.metric)


def prepared(vectors: np.ndarray, metric: str) -> np.ndarray:
    """f32 rows in C order, of unit norm for cosine; zero rows stay zero."""
    matrix = np.array(vectors, dtype=np.float32, order="C")
    if metric == "cosine":
        faiss.normalize_L2(matrix)
    return matrix


def report(
    vectors: np.ndarray, train_rows: int, phases: dict[str, float], arguments: argparse.Namespace
) -> dict[str, object]:
    """What was built, seconds by phase, rows added a second, peak resident memory of this process in MiB."""
    return {
        "factory": arguments.factory,
        "metric": arguments.metric,
        "rows": len(vectors),
        "dimension": vectors.shape[1],
        "train_rows": train_rows,
        "threads": arguments.threads,
        **{name: round(seconds, 2) for name, seconds in phases.items()},
        "add_rows_per_s": round(len(vectors) / phases["add_s"]),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "faiss": faiss.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
