"""Proximity graphs: HNSW by hnswlib, USearch and glass, Vamana by DiskANN.

For cosine the rows have unit length, so inner product and squared distance name the same neighbours and make the same
graph; each engine gets what it computes fastest.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.peer import BUILD_THREADS, Call, Peer

FILE = "graph"


class Graph(Peer):
    """What the graphs share: one search parameter, the width of the beam."""

    def settings(self) -> list[str]:
        """Every beam width."""
        return [f"ef={ef}" for ef in self.plan.ef]


def beam(setting: str, k: int) -> int:
    """The beam width of a setting, at least k."""
    return max(int(setting.partition("=")[2]), k)


class Hnswlib(Graph):
    """HNSW over f32 vectors, by its authors."""

    @staticmethod
    def package() -> ModuleType:
        """hnswlib."""
        import hnswlib

        return hnswlib

    def _index(self, dimension: int) -> Any:
        return self.package().Index("l2" if self.metric == "l2" else "ip", dimension)

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Insert the rows."""
        index = self._index(base.shape[1])
        index.init_index(len(base), M=self.plan.degree, ef_construction=self.plan.ef_construction)
        index.add_items(base, num_threads=BUILD_THREADS)
        index.save_index(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        index = self._index(base.shape[1])
        index.load_index(str(folder / FILE))
        return index

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`knn_query` in the calling thread."""
        loaded.set_ef(beam(setting, k))
        search = loaded.knn_query
        return lambda query: search(query, k, num_threads=1)[0][0]


class Usearch(Graph):
    """HNSW over vectors of a chosen precision, with the kernels of NumKong."""

    @staticmethod
    def package() -> ModuleType:
        """usearch.index."""
        import usearch.index

        return usearch.index

    def _index(self, dimension: int) -> Any:
        plan = self.plan
        metric = "l2sq" if self.metric == "l2" else "ip"
        return self.package().Index(
            ndim=dimension,
            metric=metric,
            dtype=plan.storage,
            connectivity=plan.degree,
            expansion_add=plan.ef_construction,
        )

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Insert the rows."""
        index = self._index(base.shape[1])
        index.add(np.arange(len(base)), base, threads=BUILD_THREADS)
        index.save(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        index = self._index(base.shape[1])
        index.load(str(folder / FILE))
        return index

    def keeps_vectors(self) -> bool:
        """Only as f32; vectors of less precision count as codes."""
        return self.plan.storage == "f32"

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` with one thread."""
        loaded.expansion_search = beam(setting, k)
        search = loaded.search
        return lambda query: search(query, k, threads=1).keys


class Glass(Graph):
    """HNSW over scalar-quantized vectors, candidates rescored with f32 vectors.

    Only the graph can be written; the quantized vectors are made again when it is loaded, in a moment. Its `optimize`
    is not called: it tries prefetch distances for 25 to 100 seconds a searcher on 10,000 rows of Fashion-MNIST, and no
    beam was faster after it than before.
    """

    measured_in_memory = True

    @staticmethod
    def package() -> ModuleType:
        """glass."""
        import glass

        return glass

    def _metric(self) -> str:
        return "L2" if self.metric == "l2" else "IP"

    def build_name(self) -> str:
        """The graph does not depend on what is searched beside it."""
        return f"degree{self.plan.degree},efc{self.plan.ef_construction}"

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Build the graph over the f32 vectors."""
        glass = self.package()
        glass.set_num_threads(BUILD_THREADS)
        index = glass.Index("HNSW", self._metric(), "FP32", R=self.plan.degree, L=self.plan.ef_construction)
        index.build(base).save(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the graph, which a searcher takes over, and quantize the vectors."""
        glass = self.package()
        glass.set_num_threads(1)
        walked, _, rescored = self.plan.storage.partition("+")
        names = {"f32": "FP32", "sq8": "SQ8U", "sq4": "SQ4U", "": ""}
        graph = glass.Graph(str(folder / FILE))
        return glass.Searcher(graph, base, self._metric(), names[walked], names[rescored])

    def keeps_vectors(self) -> bool:
        """Where it rescores with them."""
        return "f32" in self.plan.storage

    def queries(self, queries: np.ndarray) -> list[np.ndarray]:
        """Each query as a vector."""
        return list(queries)

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` in the calling thread."""
        loaded.set_ef(beam(setting, k))
        search = loaded.search
        return lambda query: search(query, k)[0]


class Diskann(Graph):
    """Vamana in memory.

    diskannpy 0.7 was made for numpy 1: under numpy 2 its search for one vector returns the first row k times, since it
    takes the stride of a new one-dimensional array from a field that has moved. The batched search, called here with
    one query and one thread, makes arrays of two dimensions and is right, as the recall shows.
    """

    @staticmethod
    def package() -> ModuleType:
        """diskannpy."""
        import diskannpy

        return diskannpy

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Build and write."""
        self.package().build_memory_index(
            base,
            "l2",
            str(folder),
            complexity=self.plan.ef_construction,
            graph_degree=self.plan.degree,
            num_threads=BUILD_THREADS,
        )
        # A copy of the rows as they were handed over; the index has its own.
        (folder / "ann_vectors.bin").unlink()

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory, with room for the widest beam."""
        widest = max(self.plan.ef)
        return self.package().StaticMemoryIndex(str(folder), num_threads=1, initial_search_complexity=widest)

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`batch_search` of one query."""
        complexity = beam(setting, k)
        search = loaded.batch_search
        return lambda query: search(query, k, complexity, 1).identifiers[0]
