"""ScaNN: tree, asymmetric hashing, reordering by the full vectors.

It writes a 4-bit code as a whole byte, so the codes (not the vectors) may take half of what the files say.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.peer import BUILD_THREADS, TINY_ROWS, Call, Peer


class Scann(Peer):
    """A tree of leaves with asymmetric hashing."""

    @staticmethod
    def package() -> ModuleType:
        """scann, without TensorFlow."""
        import scann

        return scann.scann_ops_pybind

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Train and add."""
        plan = self.plan
        measure = "squared_l2" if self.metric == "l2" else "dot_product"
        options = {"spherical": True} if self.metric == "cosine" else {}
        options |= {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if plan.soar else {}
        hashing = {} if plan.anisotropic is None else {"anisotropic_quantization_threshold": plan.anisotropic}
        searcher = (
            self.package()
            .builder(base, 10, measure)
            .set_n_training_threads(BUILD_THREADS)
            .tree(plan.leaves, plan.leaves_to_search[0], training_sample_size=len(base), **options)
            .score_ah(plan.dims_per_block, **hashing)
            .reorder(plan.reorder[0])
            .build()
        )
        # Its list of files names them relative to this folder, so that the folder may be moved.
        searcher.serialize(str(folder), relative_path=True)

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        return self.package().load_searcher(str(folder))

    def settings(self) -> list[str]:
        """leaves_to_search x reorder."""
        grid = product(self.plan.leaves_to_search, self.plan.reorder)
        return [f"leaves_to_search={leaves},reorder={reorder}" for leaves, reorder in grid]

    def queries(self, queries: np.ndarray) -> list[np.ndarray]:
        """Each query as a vector."""
        return list(queries)

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search`, which takes its parameters with every call and runs in the calling thread."""
        leaves, reorder = (int(part.partition("=")[2]) for part in setting.split(","))
        search = loaded.search
        return lambda query: search(query, k, reorder, leaves)[0]

    def tiny(self, rows: np.ndarray, k: int) -> Call:
        """The same call on a brute-force index: a tree cannot be trained on a few rows."""
        search = self.package().builder(rows[:TINY_ROWS], k, "dot_product").score_brute_force().build().search
        return lambda query: search(query, k)[0]
