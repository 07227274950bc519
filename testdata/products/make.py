#!/usr/bin/env python3
"""Make the product set of the demo and of the tests from its source files.

The source folder holds tab-separated files with a header line (plain, or packed as `.zst`) and unit vectors in f16:

    products.tsv[.zst]       id, title, short_description, supplier, price_cents, attributes
    queries.tsv[.zst]        qid, query
    qrels.tsv[.zst]          qid, doc_id, grade_0_3
    docs_minilm_f16.npy      products x 384
    queries_minilm_f16.npy   queries x 384

Written beside this script (or to `--output`): see README.md. Product vectors are stored as i8, each row scaled so that
its largest component is 127: under the cosine metric a row's scale does not matter, so none is stored. Queries
stay f16.

At the end the script measures what the rounding costs (cosine between an i8 row and its source, nDCG@10 of an exact
search with either). Source files that do not fit together (rows, references, types) are an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

HIGHEST_LEVEL = 127
CUTOFF = 10


class SourceError(Exception):
    """The source files do not fit together; the message names the file and the line or id."""


def main() -> int:
    """Read the source, write the set, print what it measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the source files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="default: beside this script")
    arguments = parser.parse_args()
    try:
        make(arguments.source, arguments.output)
    except (SourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(source: Path, output: Path) -> None:
    """Write every file of the set into `output` and print the measurements."""
    products = read_table(source, "products", ["id", "title", "supplier", "price_cents"])
    queries = read_table(source, "queries", ["qid", "query"])
    judgements = judgement_rows(
        read_table(source, "qrels", ["qid", "doc_id", "grade_0_3"]),
        {fields[0]: row for row, fields in enumerate(products)},
        {fields[0]: row for row, fields in enumerate(queries)},
    )
    vectors = load_vectors(source / "docs_minilm_f16.npy", len(products))
    query_vectors = load_vectors(source / "queries_minilm_f16.npy", len(queries))
    levels = to_levels(vectors)

    write_lines(output / "products.tsv", [["id", "title", "supplier", "price_cents"], *products])
    write_lines(output / "queries.tsv", [["qid", "query"], *queries])
    write_lines(output / "qrels.tsv", [[str(number) for number in judgement] for judgement in judgements])
    write_lines(output / "keys.txt", [[fields[0]] for fields in products])
    np.save(output / "vectors.npy", levels)
    np.save(output / "query_vectors.npy", query_vectors)
    report(vectors, levels, query_vectors, judgements)


def read_table(source: Path, name: str, columns: list[str]) -> list[list[str]]:
    """The named columns of `name.tsv` or `name.tsv.zst`, without its header line."""
    path = source / f"{name}.tsv"
    if path.exists():
        content = path.read_bytes()
    else:
        packed = source / f"{name}.tsv.zst"
        content = subprocess.run(["zstd", "-dc", str(packed)], capture_output=True, check=True).stdout
    header, *lines = content.decode().removesuffix("\n").split("\n")
    names = header.split("\t")
    missing = [column for column in columns if column not in names]
    if missing:
        raise SourceError(f"{name}.tsv has no column {missing[0]}; it has {', '.join(names)}")
    positions = [names.index(column) for column in columns]
    records = [line.split("\t") for line in lines]
    for number, record in enumerate(records, start=2):
        if len(record) != len(names):
            raise SourceError(f"{name}.tsv line {number} has {len(record)} fields, its header has {len(names)}")
    return [[record[position] for position in positions] for record in records]


def judgement_rows(
    judgements: list[list[str]], product_rows: dict[str, int], query_rows: dict[str, int]
) -> list[tuple[int, int, int]]:
    """(query row, document row, grade) of each judgement, in the order of the source."""
    for qid, product, _ in judgements:
        if qid not in query_rows or product not in product_rows:
            raise SourceError(f"qrels.tsv judges query {qid} with product {product}: one of them is not in its file")
    return [(query_rows[qid], product_rows[product], int(grade)) for qid, product, grade in judgements]


def load_vectors(path: Path, rows: int) -> np.ndarray:
    """An f16 matrix of finite non-zero rows, one for each line of its text file."""
    vectors = np.load(path)
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != rows:
        raise SourceError(f"{path.name} is {vectors.dtype} {vectors.shape}; wanted float16 with {rows} rows")
    if not np.isfinite(vectors).all() or not np.any(vectors, axis=1).all():
        raise SourceError(f"{path.name} has a row that is zero or not finite")
    return vectors


def to_levels(vectors: np.ndarray) -> np.ndarray:
    """i8 rows: every row scaled to a largest magnitude of 127, then rounded to the nearest integer, ties to even."""
    wide = vectors.astype(np.float32)
    return np.rint(wide * (HIGHEST_LEVEL / np.abs(wide).max(axis=1, keepdims=True))).astype(np.int8)


def write_lines(path: Path, records: list[list[str]]) -> None:
    """Tab-separated UTF-8 lines, each ended by a line feed."""
    path.write_bytes("".join("\t".join(record) + "\n" for record in records).encode())


def report(
    vectors: np.ndarray, levels: np.ndarray, query_vectors: np.ndarray, judgements: list[tuple[int, int, int]]
) -> None:
    """Print sizes and what i8 costs against the f16 source."""
    source, rounded, queries = unit_rows(vectors), unit_rows(levels), unit_rows(query_vectors)
    cosines = np.einsum("ij,ij->i", source, rounded)
    print(f"products {len(vectors)} x {vectors.shape[1]}, queries {len(queries)}, judgements {len(judgements)}")
    print(f"1 - cosine(i8 row, f16 row): mean {1 - cosines.mean():.2e}, largest {1 - cosines.min():.2e}")
    print(f"largest difference of a query's score: {np.abs(queries @ (source - rounded).T).max():.2e}")
    for name, documents in (("f16", source), ("i8", rounded)):
        value, counted = mean_ndcg(queries @ documents.T, judgements)
        print(f"nDCG@{CUTOFF} {name}: {value:.4f} (mean of {counted} queries that have a positive grade)")


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm, f64."""
    wide = matrix.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def mean_ndcg(scores: np.ndarray, judgements: list[tuple[int, int, int]]) -> tuple[float, int]:
    """Mean nDCG@10 with linear gain (the grade), unjudged products counting 0, and the number of queries averaged.

    nDCG = DCG / ideal DCG with DCG = sum over ranks r = 1.. of grade / log2(r + 1) (Jarvelin and Kekalainen, 2002).
    """
    grades: dict[int, dict[int, int]] = {}
    for query, document, grade in judgements:
        grades.setdefault(query, {})[document] = grade
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    values = []
    for query, judged in grades.items():
        ideal = sorted(judged.values(), reverse=True)[:CUTOFF]
        if ideal[0] == 0:
            continue
        ranked = np.argsort(-scores[query], kind="stable")[:CUTOFF]
        gains = [judged.get(int(row), 0) for row in ranked]
        values.append(np.dot(gains, discounts) / np.dot(ideal, discounts[: len(ideal)]))
    return float(np.mean(values)), len(values)


if __name__ == "__main__":
    sys.exit(main())
