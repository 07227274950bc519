#!/usr/bin/env python3
"""Turn texts with ready-made vectors into data sets for training and testing codes with labelled pairs.

    prepare.py DATA OUT                  # both sets, into OUT/packages and OUT/medquad
    prepare.py DATA OUT --only packages

DATA holds a folder a set: a tab-separated table (zstd, a header line first) and the vectors of two of its columns,
row i of which belong to line i. OUT/NAME gets what the training commands read:

    docs.npy, queries.npy     the vectors as they are (f16)
    pairs.tsv                 which document answers a query: here always row i and row i
    documents.*.txt           groups: one label a line, row by row; an empty line is a row without a group
    queries.*.txt             the same for queries

`split-pairs` keeps what shares a label on one side of a split. Without groups a test would ask for documents whose
near-copies were trained on: packages of one source have nearly one description, questions about one disease nearly one
answer. No row is dropped. The labels:

* packages
  * documents.text: the first 80 characters of the description, in lower case, letters only.
  * documents.stem: the name without what comes before it (`lib`, `python3-`, ...) and behind it (versions, `-dev`,
    `-doc`, ...). A stem of one or two letters (`c`, `qt`, `x`) is none: it would connect strangers.
  * queries.text: the short description.
* medquad
  * documents.text: the first 80 characters of the answer, unless more than 10 answers begin so. Those sentences are
    templates ("This condition is inherited in an autosomal recessive pattern") and would connect one row in six. The
    price is that a few hundred such answers have equals in other parts.
  * queries.focus: the disease, drug or other entity asked about.
  * queries.text: the question.

Needs numpy, and either the command `zstd` or the Python module `zstandard`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PREFIX = 80
SHORTEST_STEM = 3
MOST_SHARING_AN_ANSWER = 10
NAME_BEGINS = re.compile(
    r"^(?:lib(?:32|64|n32|x32)?|rust-|ghc-|haskell-|python3?-|pypy-|ruby-|node-"
    r"|golang-(?:github-|gitlab-|gopkg-)?"
    r"|r-(?:cran|bioc|other)-|php(?:\d(?:\.\d)?)?-|lua-|elpa-|gir1\.2-|ocaml-|erlang-|puppet-module-|fonts-|texlive-)"
)
NAME_ENDS = re.compile(
    r"-(?:dev|devel|headers|docs?|examples|dbg|dbgsym|tests?|testsuite|common|data|base|runtime|bin|utils?|tools?|cli"
    r"|gui|gtk[234]?|qt[456]?|ncurses|nox|core|clients?|servers?|daemon|plugins?|modules?|extras?|static|source|dkms"
    r"|full|minimal|lite|default|all|private|udeb|cross|l10n|i18n|locales?|themes?|music|sounds?|maps"
    r"|mysql|pgsql|sqlite3?|perl|java|jni|cil|ocaml|ruby|python3?|guile|tcl|lua|php)$"
    r"|-?v?\d[\d.+~]*[a-z]{0,3}$"
)

Table = dict[str, list[str]]


class PrepareError(Exception):
    """A file that is not what is expected; the message says which and why."""


@dataclass(frozen=True)
class Source:
    """Where a set lies in DATA, and its groups: a file's name and a function from the table to labels."""

    name: str
    table: str
    documents: str
    queries: str
    groups: dict[str, Callable[[Table], list[str]]]


def main() -> int:
    """Prepare the sets asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of texts and vectors")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--only", choices=[source.name for source in SOURCES], help="prepare this set alone")
    arguments = parser.parse_args()
    try:
        for source in SOURCES:
            if arguments.only in (None, source.name):
                prepare(source, arguments.data, arguments.out / source.name)
    except (PrepareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(source: Source, data: Path, out: Path) -> None:
    """Write one set and print its sizes."""
    out.mkdir(parents=True, exist_ok=True)
    table = read_table(data / source.table)
    rows = len(next(iter(table.values())))
    for name, vectors in (("docs.npy", data / source.documents), ("queries.npy", data / source.queries)):
        shape = np.load(vectors, mmap_mode="r").shape
        if len(shape) != 2 or shape[0] != rows:
            raise PrepareError(f"{vectors}: shape {shape}, but {source.table} has {rows} rows")
        aside = out / f".tmp-{name}"
        shutil.copyfile(vectors, aside)
        aside.replace(out / name)
        print(f"{source.name}: {name} {shape[0]:,} x {shape[1]}")
    write_lines(out / "pairs.tsv", [f"{row}\t{row}" for row in range(rows)])
    print(f"{source.name}: pairs.tsv {rows:,} pairs")
    for name, labels_of in source.groups.items():
        labels = labels_of(table)
        write_lines(out / name, labels)
        shared = {label: count for label, count in Counter(filter(None, labels)).items() if count > 1}
        largest = max(shared, key=shared.__getitem__)
        print(
            f"{source.name}: {name} {len(shared):,} labels are shared, by {sum(shared.values()):,} rows;"
            f" the largest by {shared[largest]:,}: {largest!r}"
        )


def read_table(path: Path) -> Table:
    """The columns of a compressed table."""
    text = decompressed(path).decode()
    header, *lines = text.removesuffix("\n").split("\n")
    names = header.split("\t")
    rows = [line.split("\t") for line in lines]
    for number, cells in enumerate(rows, start=2):
        if len(cells) != len(names):
            raise PrepareError(f"{path}: line {number} has {len(cells)} cells, the header {len(names)}")
    return {name: [cells[column] for cells in rows] for column, name in enumerate(names)}


def decompressed(path: Path) -> bytes:
    """The content of a zstd file, by whichever of the command and the module is there."""
    if shutil.which("zstd"):
        done = subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=False)
        if done.returncode != 0:
            raise PrepareError(f"{path}: {done.stderr.decode().strip()}")
        return done.stdout
    try:
        import zstandard  # noqa: PLC0415 - needed only where the command is missing
    except ImportError:
        raise PrepareError("neither the command zstd nor the Python module zstandard is installed") from None
    with zstandard.open(path, "rb") as file:
        return file.read()


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a text file, aside and renamed."""
    aside = path.with_name(f".tmp-{path.name}")
    aside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    aside.replace(path)


def letters(text: str) -> str:
    """Words of letters in lower case, cut to the prefix that is compared."""
    return " ".join(re.sub(r"[\W\d_]+", " ", text.lower()).split())[:PREFIX]


def folded(text: str) -> str:
    """Lower case, blanks folded."""
    return " ".join(text.lower().split())


def stem(package: str) -> str:
    """What packages of one source have in common in their names; empty if too little is left."""
    rest = package
    for pattern in (NAME_BEGINS, NAME_ENDS):
        while (shorter := pattern.sub("", rest, count=1).strip("-.+")) not in ("", rest):
            rest = shorter
    return rest if len(rest) >= SHORTEST_STEM else ""


def answer_prefixes(table: Table) -> list[str]:
    """How answers begin, but for beginnings that are templates."""
    labels = [folded(answer)[:PREFIX] for answer in table["answer"]]
    counts = Counter(labels)
    return [label if counts[label] <= MOST_SHARING_AN_ANSWER else "" for label in labels]


SOURCES = (
    Source(
        name="packages",
        table="debian_packages/packages.tsv.zst",
        documents="debian_packages/docs_minilm_f16.npy",
        queries="debian_packages/queries_minilm_f16.npy",
        groups={
            "documents.text.txt": lambda table: [letters(text) for text in table["long"]],
            "documents.stem.txt": lambda table: [stem(package) for package in table["package"]],
            "queries.text.txt": lambda table: [folded(text) for text in table["short"]],
        },
    ),
    Source(
        name="medquad",
        table="medquad/qa.tsv.zst",
        documents="medquad/answers_minilm_f16.npy",
        queries="medquad/questions_minilm_f16.npy",
        groups={
            "documents.text.txt": answer_prefixes,
            "queries.focus.txt": lambda table: [folded(focus) for focus in table["focus"]],
            "queries.text.txt": lambda table: [folded(question) for question in table["question"]],
        },
    ),
)


if __name__ == "__main__":
    sys.exit(main())
