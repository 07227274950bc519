"""The peers: how each builds an index, what it takes in memory, and one search call for one query.

Both are called through their own Python interface. What such a call costs before any work is done is measured on an
index of a few rows (`call_overhead_us`), so that a reader can subtract it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import scann

from measure import Dataset, time_queries

BUILD_THREADS = 2
TINY_ROWS = 16


class Peer(Protocol):
    """An index that is built and can be searched at several settings."""

    engine: str
    index: str
    build_s: float
    memory_bytes: int
    code_bytes: int

    def settings(self) -> list[str]:
        """Every search setting to measure."""

    def queries(self, queries: np.ndarray) -> list[Any]:
        """Each query as `searcher` takes it."""

    def searcher(self, setting: str, k: int) -> Callable[[Any], np.ndarray]:
        """The search call at a setting: a query to at most k rows, -1 for none."""

    def call_overhead_us(self, queries: np.ndarray, k: int) -> float:
        """Microseconds of a call on an index of a few rows."""


@dataclass(frozen=True)
class FaissPlan:
    """An index factory string and the grid of its search parameters.

    A search keeps k x k_factor_rf candidates of the code scan and rescores them with the full vectors (`RFlat`).
    """

    factory: str
    nprobe: tuple[int, ...]
    k_factor_rf: tuple[int, ...]

    def build(self, dataset: Dataset) -> FaissPeer:
        """Train and add, with `BUILD_THREADS` threads; searches run with one."""
        return FaissPeer(self, dataset)


class FaissPeer:
    """FAISS (CPU), an inverted file of codes with full vectors to rescore candidates."""

    engine = "faiss"

    def __init__(self, plan: FaissPlan, dataset: Dataset) -> None:
        metric = faiss.METRIC_L2 if dataset.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = plan.factory
        self._plan = plan
        faiss.omp_set_num_threads(BUILD_THREADS)
        start = time.perf_counter()
        self._index = faiss.index_factory(dataset.base.shape[1], plan.factory, metric)
        self._index.train(dataset.base)
        self._index.add(dataset.base)
        self.build_s = time.perf_counter() - start
        faiss.omp_set_num_threads(1)
        self.memory_bytes = len(faiss.serialize_index(self._index))
        self.code_bytes = self.memory_bytes - (dataset.base.nbytes if plan.factory.endswith("RFlat") else 0)

    def settings(self) -> list[str]:
        """nprobe x k_factor_rf, in the words of FAISS's own parameter space."""
        grid = product(self._plan.nprobe, self._plan.k_factor_rf)
        return [f"nprobe={nprobe},k_factor_rf={factor}" for nprobe, factor in grid]

    def queries(self, queries: np.ndarray) -> list[np.ndarray]:
        """Each query as a matrix of one row."""
        return [queries[i : i + 1] for i in range(len(queries))]

    def searcher(self, setting: str, k: int) -> Callable[[np.ndarray], np.ndarray]:
        """`search` into arrays made once."""
        faiss.ParameterSpace().set_index_parameters(self._index, setting)
        return faiss_call(self._index, k)

    def call_overhead_us(self, queries: np.ndarray, k: int) -> float:
        """The same call on a flat index of a few rows."""
        tiny = faiss.IndexFlatL2(queries.shape[1])
        tiny.add(queries[:TINY_ROWS])
        timing = time_queries(faiss_call(tiny, k), self.queries(queries[:2000]), k)
        return float(np.median(timing.latencies_us))


def faiss_call(index: Any, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """One query (1 x d) to its k rows; the arrays of the answer are used again by the next call."""
    scores, rows = np.empty((1, k), dtype=np.float32), np.empty((1, k), dtype=np.int64)

    def search(query: np.ndarray) -> np.ndarray:
        index.search(query, k, D=scores, I=rows)
        return rows[0]

    return search


@dataclass(frozen=True)
class ScannPlan:
    """A tree of leaves with asymmetric hashing in them, and the grid of its search parameters.

    anisotropic: threshold of the anisotropic loss (Guo et al., 2020), None for plain k-means codewords.
    soar: store every row in a second leaf (Sun et al., 2023).
    """

    leaves: int
    dims_per_block: int
    leaves_to_search: tuple[int, ...]
    reorder: tuple[int, ...]
    anisotropic: float | None = None
    soar: bool = False

    def name(self) -> str:
        """A short description of the index."""
        parts = [f"tree{self.leaves}", f"ah{self.dims_per_block}"]
        parts += [f"anisotropic{self.anisotropic}"] if self.anisotropic is not None else []
        parts += ["soar"] if self.soar else []
        return ",".join([*parts, "reorder"])

    def build(self, dataset: Dataset) -> ScannPeer:
        """Train and add, with `BUILD_THREADS` threads."""
        return ScannPeer(self, dataset)


class ScannPeer:
    """ScaNN: tree, asymmetric hashing, reordering by the full vectors."""

    engine = "scann"

    def __init__(self, plan: ScannPlan, dataset: Dataset) -> None:
        measure = "squared_l2" if dataset.metric == "l2" else "dot_product"
        options = {"spherical": True} if dataset.metric == "cosine" else {}
        options |= {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if plan.soar else {}
        hashing = {} if plan.anisotropic is None else {"anisotropic_quantization_threshold": plan.anisotropic}
        self.index = plan.name()
        self._plan = plan
        start = time.perf_counter()
        self._searcher = (
            scann.scann_ops_pybind.builder(dataset.base, 10, measure)
            .set_n_training_threads(BUILD_THREADS)
            .tree(plan.leaves, plan.leaves_to_search[0], training_sample_size=len(dataset.base), **options)
            .score_ah(plan.dims_per_block, **hashing)
            .reorder(plan.reorder[0])
            .build()
        )
        self.build_s = time.perf_counter() - start
        self.memory_bytes = serialized_bytes(self._searcher)
        self.code_bytes = self.memory_bytes - dataset.base.nbytes

    def settings(self) -> list[str]:
        """leaves_to_search x reorder."""
        grid = product(self._plan.leaves_to_search, self._plan.reorder)
        return [f"leaves_to_search={leaves},reorder={reorder}" for leaves, reorder in grid]

    def queries(self, queries: np.ndarray) -> list[np.ndarray]:
        """Each query as a vector."""
        return list(queries)

    def searcher(self, setting: str, k: int) -> Callable[[np.ndarray], np.ndarray]:
        """`search`, which takes its parameters with every call and runs in the calling thread."""
        leaves, reorder = (int(part.partition("=")[2]) for part in setting.split(","))
        search = self._searcher.search
        return lambda query: search(query, k, reorder, leaves)[0]

    def call_overhead_us(self, queries: np.ndarray, k: int) -> float:
        """The same call on a brute-force index of a few rows."""
        tiny = scann.scann_ops_pybind.builder(queries[:TINY_ROWS], k, "dot_product").score_brute_force().build()
        timing = time_queries(lambda query: tiny.search(query, k)[0], self.queries(queries[:2000]), k)
        return float(np.median(timing.latencies_us))


def serialized_bytes(searcher: Any) -> int:
    """Bytes of a ScaNN index on disk: the nearest thing to its size in memory that it lets one see.

    It writes a 4-bit code as a whole byte, so the codes (not the vectors) may take half as much once packed.
    """
    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
