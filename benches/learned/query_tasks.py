#!/usr/bin/env python3
"""Make four tasks of queries over one set of documents, for `train-adapters`, from texts with ready-made vectors.

    query_tasks.py DATA OUT
    split-pairs --pairs OUT/package.pairs.tsv --document-groups OUT/package.groups.txt --output OUT/package
    split-pairs --pairs OUT/answer.pairs.tsv --document-groups OUT/answer.groups.txt --output OUT/answer
    query_tasks.py DATA OUT --finish
    train-adapters --tasks OUT/tasks.toml ...

DATA holds the folders debian_packages, medquad and products_icecat: tables (tab-separated, zstd, a header line first), and the
vectors of their queries and documents, row i of which belong to line i. The tasks:

* package: the short description of a package to its long one. Packages whose long descriptions begin with the same 60
  characters stay together.
* answer: a question to its answer. Questions with one focus (a disease, a drug) stay together.
* topic: the same questions to the other answers about the same focus, where there are 1 to 10 of them. A question is in the
  same part as in the task answer: no text that one task is reported by was trained on by the other.
* product: shopping queries to the products that were graded 2 or 3 for them. Queries are divided 60 : 15 : 25 by a hash of their text.

The first call writes the pairs and the groups that `split-pairs` divides, and the parts of product, which needs no division by
groups. The second writes the parts of topic, and tasks.toml.

Needs numpy, and either the command `zstd` or the Python module `zstandard`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from prepare import PrepareError, read_table, write_lines

PREFIX = 60
MOST_OTHER_ANSWERS = 10
RELEVANT = 2
PARTS = ("train", "valid", "test")
TABLES = {
    "package": "debian_packages/packages.tsv.zst",
    "answer": "medquad/qa.tsv.zst",
    "product": "products_icecat/products.tsv.zst",
}
QUERIES = {
    "package": "debian_packages/queries_minilm_f16.npy",
    "answer": "medquad/questions_minilm_f16.npy",
    "topic": "medquad/questions_minilm_f16.npy",
    "product": "products_icecat/queries_minilm_f16.npy",
}
DOCUMENTS = {
    "package": "debian_packages/docs_minilm_f16.npy",
    "answer": "medquad/answers_minilm_f16.npy",
    "topic": "medquad/answers_minilm_f16.npy",
    "product": "products_icecat/docs_minilm_f16.npy",
}

Pairs = list[tuple[int, int]]


def main() -> int:
    """Make what can be made so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of texts and vectors")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--finish", action="store_true", help="after split-pairs: the parts of topic, and tasks.toml")
    arguments = parser.parse_args()
    try:
        (finish if arguments.finish else begin)(arguments.data, arguments.out)
    except (PrepareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def begin(data: Path, out: Path) -> None:
    """Write what `split-pairs` divides, and the parts of product."""
    out.mkdir(parents=True, exist_ok=True)
    groups = {
        "package": [text[:PREFIX] for text in read_table(data / TABLES["package"])["long"]],
        "answer": [
            focus or f"none{row}" for row, focus in enumerate(read_table(data / TABLES["answer"])["focus"])
        ],
    }
    for task, labels in groups.items():
        write_lines(out / f"{task}.groups.txt", labels)
        write_pairs(out / f"{task}.pairs.tsv", [(row, row) for row in range(len(labels))])
    for part, pairs in product_parts(data).items():
        write_pairs(part_of(out, "product", part), pairs)


def finish(data: Path, out: Path) -> None:
    """Write the parts of topic, and the file of tasks."""
    others = other_answers(data)
    for part in PARTS:
        path = part_of(out, "answer", part)
        if not path.is_file():
            raise PrepareError(f"{path} is not there: run split-pairs first")
        questions = [int(line.split("\t")[0]) for line in path.read_text().splitlines()]
        pairs = [(question, other) for question in questions for other in others.get(question, [])]
        write_pairs(part_of(out, "topic", part), pairs)
    documents = list(dict.fromkeys(str((data / path).resolve()) for path in DOCUMENTS.values()))
    lines = ["documents = [" + ", ".join(f'"{path}"' for path in documents) + "]"]
    for task, queries in QUERIES.items():
        lines += ["[[task]]", f'name = "{task}"', f'queries = "{(data / queries).resolve()}"']
        lines += [f'documents = "{(data / DOCUMENTS[task]).resolve()}"']
        lines += [f'{part} = "{task}/{part}.pairs.tsv"' for part in PARTS]
    write_lines(out / "tasks.toml", lines)
    rows = sum(np.load(path, mmap_mode="r").shape[0] for path in documents)
    print(f"{rows:,} documents, {len(QUERIES)} tasks: {out / 'tasks.toml'}")


def other_answers(data: Path) -> dict[int, list[int]]:
    """Of each question, the answers to other questions about the same focus, if there are a few."""
    table = read_table(data / TABLES["answer"])
    same: dict[str, list[int]] = defaultdict(list)
    for row, focus in enumerate(table["focus"]):
        same[focus].append(row)
    found = {}
    for row, (focus, question) in enumerate(zip(table["focus"], table["question"], strict=True)):
        others = [other for other in same[focus] if table["question"][other] != question]
        if focus and 1 <= len(others) <= MOST_OTHER_ANSWERS:
            found[row] = others
    return found


def product_parts(data: Path) -> dict[str, Pairs]:
    """The pairs of shopping queries and relevant products, by a hash of the query."""
    folder = (data / TABLES["product"]).parent
    products = {product: row for row, product in enumerate(read_table(data / TABLES["product"])["id"])}
    queries = read_table(folder / "queries.tsv.zst")
    row_of = {query: row for row, query in enumerate(queries["qid"])}
    judged = read_table(folder / "qrels.tsv.zst")
    grade = list(judged)[2]
    parts: dict[str, Pairs] = {part: [] for part in PARTS}
    for query, product, label in zip(judged["qid"], judged["doc_id"], judged[grade], strict=True):
        if float(label) < RELEVANT or product not in products:
            continue
        row = row_of[query]
        draw = int(hashlib.sha256(queries["query"][row].encode()).hexdigest(), 16) % 100
        part = "train" if draw < 60 else "valid" if draw < 75 else "test"
        parts[part].append((row, products[product]))
    return parts


def part_of(out: Path, task: str, part: str) -> Path:
    """Where a part of a task lies."""
    (out / task).mkdir(parents=True, exist_ok=True)
    return out / task / f"{part}.pairs.tsv"


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs of row numbers."""
    write_lines(path, [f"{query}\t{document}" for query, document in pairs])
    print(f"{path.parent.name}/{path.name}: {len(pairs):,} pairs of {len({query for query, _ in pairs}):,} queries")


if __name__ == "__main__":
    sys.exit(main())
