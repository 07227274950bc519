#!/usr/bin/env python3
"""How often FAISS finds the labelled document among its best 10, 100 and 1000 candidates, at equal code bytes.

    faiss_baselines.py DATASET --split SPLIT --out faiss.json

DATASET is a folder made by `prepare.py`, SPLIT one made by `split-pairs` (default: DATASET itself). The corpus is every
document of the set and everything is trained on all of them: no labels are used, so there is nothing to hold out. The
queries are those of SPLIT/test.pairs.tsv. Candidates are ranked by their codes alone; nothing is rescored.

| method | what |
|---|---|
| dense | the vectors themselves, all of them compared: the ceiling |
| PQ | product quantization, M bytes, all codes scanned |
| OPQ | the same after a learned rotation |
| OPQ,IVF | OPQ, then inverted lists whose residuals are coded; the number of the list is not counted in the bytes |

Codes can be compared by inner product or by L2 distance. All vectors are of unit length, so both ask for the same, but
decoded vectors are not, and lists are assigned differently. Both are tried, and the one with the higher recall at 100
(mean over seeds and numbers of probed lists) stands for the method: that favours FAISS. What the other one found is
kept in its records as `other_metric`. Lists are those of the factory string `OPQ{M},IVF{L},PQ{M}`. A seed sets
OPQ's first rotation and every k-means. `seconds` is the time of training and encoding in `--threads` threads.

Needs faiss-cpu and numpy as pinned in `benches/peers/requirements.txt` (`benches/peers/setup.sh` installs them).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

DEPTHS = (10, 100, 1000)
NPROBE = (1, 2, 4, 8, 16, 32, 64)
METRICS = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
QUERY_BLOCK = 1024
SETTING = ("method", "bytes", "lists", "nprobe", "seed")

Record = dict[str, object]


@dataclass(frozen=True)
class Task:
    """The corpus, one query a labelled pair, and the document each must find. Vectors are f32, a row each."""

    documents: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    vector_bytes: int

    @classmethod
    def open(cls, dataset: Path, split: Path) -> Task:
        """Read the vectors and the test pairs."""
        documents, queries = np.load(dataset / "docs.npy"), np.load(dataset / "queries.npy")
        pairs = np.loadtxt(split / "test.pairs.tsv", dtype=np.int64, ndmin=2)
        if pairs[:, 0].max() >= len(queries) or pairs[:, 1].max() >= len(documents):
            raise ValueError(f"{split / 'test.pairs.tsv'} names rows that {dataset} does not have")
        vector_bytes = documents.shape[1] * documents.itemsize
        queries = queries[pairs[:, 0]].astype(np.float32)
        return cls(documents.astype(np.float32), queries, pairs[:, 1], vector_bytes)

    def recall(self, index: faiss.Index, queries: np.ndarray) -> dict[str, float]:
        """Share of pairs whose document is among the best candidates, at each depth."""
        found = np.zeros(len(DEPTHS), dtype=np.int64)
        for start in range(0, len(queries), QUERY_BLOCK):
            _, rows = index.search(queries[start : start + QUERY_BLOCK], max(DEPTHS))
            hits = rows == self.labels[start : start + QUERY_BLOCK, None]
            found += [np.count_nonzero(hits[:, :depth]) for depth in DEPTHS]
        return {str(depth): float(count) / len(queries) for depth, count in zip(DEPTHS, found, strict=True)}


def main() -> int:
    """Measure every method, write the records, print the table."""
    arguments = parse_arguments()
    faiss.omp_set_num_threads(arguments.threads)
    try:
        task = Task.open(arguments.dataset, arguments.split or arguments.dataset)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    records = [dense(task)]
    for code_bytes in arguments.code_bytes:
        for seed in arguments.seeds:
            print(f"{code_bytes} bytes, seed {seed}", file=sys.stderr, flush=True)
            records += measure(task, code_bytes, arguments.lists, seed)
            # After each, as a run takes an hour; which metric stands for a method may still change.
            save(arguments.out, better_metric(records))
    print(table(better_metric(records), len(task.queries), len(task.documents)), end="")
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder with docs.npy and queries.npy")
    parser.add_argument("--split", type=Path, help="folder with test.pairs.tsv (default: the data set's)")
    parser.add_argument("--out", type=Path, required=True, help="file of records to write")
    parser.add_argument("--code-bytes", type=int, nargs="+", default=[8, 16, 32], metavar="M")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--lists", type=int, default=256, metavar="L")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    return parser.parse_args()


def dense(task: Task) -> Record:
    """Exact search in full precision."""
    index = faiss.IndexFlatIP(task.documents.shape[1])
    index.add(task.documents)
    return record("dense", task.vector_bytes, task.recall(index, task.queries), 0.0)


def measure(task: Task, code_bytes: int, lists: int, seed: int) -> list[Record]:
    """All coded methods at one size and seed; both methods with a rotation share it."""
    records = scan_all("PQ", task, task.documents, task.queries, code_bytes, seed, 0.0)
    start = time.perf_counter()
    rotation = train_rotation(task.documents, code_bytes, seed)
    documents = rotation.apply(task.documents)
    rotation_s = time.perf_counter() - start
    queries = rotation.apply(task.queries)
    records += scan_all("OPQ", task, documents, queries, code_bytes, seed, rotation_s)
    return records + probe_lists(task, documents, queries, code_bytes, lists, seed, rotation_s)


def train_rotation(documents: np.ndarray, code_bytes: int, seed: int) -> faiss.OPQMatrix:
    """OPQ as FAISS trains it, but from a seeded rotation: its own first rotation is always the same."""
    dim = documents.shape[1]
    rotation = faiss.OPQMatrix(dim, code_bytes)
    first, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    faiss.copy_array_to_vector(first.astype(np.float32).ravel(), rotation.A)
    quantizer = faiss.ProductQuantizer(dim, code_bytes, 8)
    quantizer.cp.seed = seed
    rotation.pq = quantizer
    rotation.train(documents)
    # The quantizer belongs to Python: the rotation must not point at it when it is gone.
    rotation.pq = None
    return rotation


def scan_all(
    method: str,
    task: Task,
    documents: np.ndarray,
    queries: np.ndarray,
    code_bytes: int,
    seed: int,
    rotation_s: float,
) -> list[Record]:
    """Codes without lists, compared by either metric."""
    start = time.perf_counter()
    index = faiss.IndexPQ(documents.shape[1], code_bytes, 8)
    index.pq.cp.seed = seed
    index.train(documents)
    index.add(documents)
    seconds = rotation_s + time.perf_counter() - start
    records = []
    for name, metric in METRICS.items():
        # Training and codes are the same for both: only the comparison differs.
        index.metric_type = metric
        recall = task.recall(index, queries)
        records.append(record(method, code_bytes, recall, seconds, metric=name, seed=seed))
    return records


def probe_lists(
    task: Task,
    documents: np.ndarray,
    queries: np.ndarray,
    code_bytes: int,
    lists: int,
    seed: int,
    rotation_s: float,
) -> list[Record]:
    """Inverted lists with coded residuals, built for either metric, at every number of lists probed."""
    records = []
    for name, metric in METRICS.items():
        start = time.perf_counter()
        index = train_lists(documents, code_bytes, lists, metric, seed)
        seconds = rotation_s + time.perf_counter() - start
        for nprobe in (nprobe for nprobe in NPROBE if nprobe <= lists):
            index.nprobe = nprobe
            recall = task.recall(index, queries)
            records.append(record("OPQ,IVF", code_bytes, recall, seconds, name, lists, nprobe, seed))
    return records


def train_lists(documents: np.ndarray, code_bytes: int, lists: int, metric: int, seed: int) -> faiss.IndexIVFPQ:
    """The part of `OPQ{M},IVF{L},PQ{M}` behind the rotation, as index_factory makes it but for the seed."""
    dim = documents.shape[1]
    by_inner_product = metric == faiss.METRIC_INNER_PRODUCT
    coarse = faiss.IndexFlatIP(dim) if by_inner_product else faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFPQ(coarse, dim, lists, code_bytes, 8, metric)
    index.cp.spherical = by_inner_product
    index.by_residual = True
    index.cp.seed = index.pq.cp.seed = seed
    index.train(documents)
    index.add(documents)
    return index


def record(
    method: str,
    code_bytes: int,
    recall: dict[str, float],
    seconds: float,
    metric: str = "ip",
    lists: int = 0,
    nprobe: int = 0,
    seed: int = 0,
) -> Record:
    """One measured setting; 0 lists: none, seed 0: nothing is random."""
    return {
        "method": method,
        "bytes": code_bytes,
        "metric": metric,
        "lists": lists,
        "nprobe": nprobe,
        "seed": seed,
        "recall": recall,
        "seconds": round(seconds, 2),
    }


def better_metric(records: list[Record]) -> list[Record]:
    """The records of the metric with the higher mean recall at 100, for each method and size."""
    recalls: dict[tuple[object, object], dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_setting: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for entry in records:
        recalls[entry["method"], entry["bytes"]][entry["metric"]].append(entry["recall"]["100"])
        by_setting[tuple(entry[name] for name in SETTING)].append(entry)
    best = {method: max(by, key=lambda metric: np.mean(by[metric])) for method, by in recalls.items()}
    kept = []
    for entries in by_setting.values():
        # False sorts before True: the better metric first.
        entries.sort(key=lambda entry: entry["metric"] != best[entry["method"], entry["bytes"]])
        kept.append(entries[0] | {"other_metric": entry["recall"] for entry in entries[1:]})
    return kept


def save(path: Path, records: list[Record]) -> None:
    """Write the records, aside and renamed."""
    aside = path.with_name(f".tmp-{path.name}")
    aside.write_text(json.dumps(records, indent=1) + "\n")
    aside.replace(path)


def table(records: list[Record], pairs: int, documents: int) -> str:
    """Mean recall over seeds and, behind it, the distance between the best and the worst seed."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for entry in records:
        groups[tuple(entry[name] for name in ("method", "bytes", "metric", "lists", "nprobe"))].append(entry)
    lines = [
        f"{pairs:,} labelled pairs, {documents:,} documents; mean over seeds (best - worst)",
        "",
        "| method | bytes | metric | lists | nprobe | " + " | ".join(f"recall@{d}" for d in DEPTHS) + " | seconds |",
        "|" + "---|" * (6 + len(DEPTHS)),
    ]
    for setting in sorted(groups, key=lambda setting: setting[1]):
        entries = groups[setting]
        cells = [str(part) for part in setting]
        for depth in DEPTHS:
            values = [entry["recall"][str(depth)] for entry in entries]
            cells.append(f"{np.mean(values):.4f} ({max(values) - min(values):.4f})")
        cells.append(f"{np.mean([entry['seconds'] for entry in entries]):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
