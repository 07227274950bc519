"""FAISS (CPU): inverted lists of codes that are scanned in registers, with full vectors to rescore candidates.

Of RaBitQ, faiss-cpu 1.15 makes `RaBitQfs` and `RaBitQfs2` to `RaBitQfs9` (the bits a dimension; a block size may follow
after an underscore) in inverted lists, refined by `RFlat` or `Refine(...)`. Vectors are not rotated unless `RR` comes
first, and without it the codes are clearly worse.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.peer import BUILD_THREADS, TINY_ROWS, Call, Peer

FILE = "index.faiss"


class Faiss(Peer):
    """An index of the factory."""

    @staticmethod
    def package() -> ModuleType:
        """faiss-cpu."""
        import faiss

        return faiss

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Train and add; searches run with one thread."""
        faiss = self.package()
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        faiss.omp_set_num_threads(BUILD_THREADS)
        index = faiss.index_factory(base.shape[1], self.plan.factory, metric)
        index.train(base)
        index.add(base)
        faiss.write_index(index, str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        faiss = self.package()
        faiss.omp_set_num_threads(1)
        return faiss.read_index(str(folder / FILE))

    def keeps_vectors(self) -> bool:
        """Where it refines with them."""
        return self.plan.factory.endswith("RFlat")

    def settings(self) -> list[str]:
        """nprobe x k_factor_rf, in the words of FAISS's own parameter space."""
        if not self.plan.k_factor_rf:
            return [f"nprobe={nprobe}" for nprobe in self.plan.nprobe]
        grid = product(self.plan.nprobe, self.plan.k_factor_rf)
        return [f"nprobe={nprobe},k_factor_rf={factor}" for nprobe, factor in grid]

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` into arrays made once."""
        self.package().ParameterSpace().set_index_parameters(loaded, setting)
        return into_arrays(loaded, k)

    def tiny(self, rows: np.ndarray, k: int) -> Call:
        """The same call on a flat index: codes cannot be trained on a few rows."""
        index = self.package().IndexFlatL2(rows.shape[1])
        index.add(rows[:TINY_ROWS])
        return into_arrays(index, k)


def into_arrays(index: Any, k: int) -> Call:
    """One query (1 x d) to its k rows; the arrays of the answer are used again by the next call."""
    scores, rows = np.empty((1, k), dtype=np.float32), np.empty((1, k), dtype=np.int64)

    def search(query: np.ndarray) -> np.ndarray:
        index.search(query, k, D=scores, I=rows)
        return rows[0]

    return search
