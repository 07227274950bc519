"""RaBitQ-Library: inverted lists, HNSW and SymphonyQG over RaBitQ codes, by the authors of the codes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.graphs import Graph, beam
from engines.peer import BUILD_THREADS, TINY_ROWS, Call, Peer

FILE = "index.rabitq"
# Centroids that HNSW's codes are relative to; its documentation uses as many.
HNSW_CENTROIDS = 16


class Rabitqlib(Peer):
    """What its three indexes share: the package and the metric's names."""

    @staticmethod
    def package() -> ModuleType:
        """rabitqlib."""
        import rabitqlib

        return rabitqlib

    def _metric(self) -> str:
        return "l2" if self.metric == "l2" else "ip"

    def _clusters(self, base: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Centroids (count x dimension) and the nearest of each row; a few rows have one centroid."""
        rabitqlib = self.package()
        if len(base) <= TINY_ROWS:
            return base.mean(axis=0, keepdims=True), np.zeros(len(base), dtype=np.uint32)
        clustering = rabitqlib.RaBitQKMeans(
            base.shape[1], count, num_threads=BUILD_THREADS, final_assignment=rabitqlib.FinalAssignmentMode.Exact
        )
        clustering.train(base)
        return clustering.centroids, clustering.assignments


class RabitqIvf(Rabitqlib):
    """Inverted lists."""

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Cluster and encode."""
        centroids, assignments = self._clusters(base, self.plan.lists)
        index = self.package().IvfIndex(
            dim=base.shape[1],
            max_elements=len(base),
            num_clusters=len(centroids),
            nbits=self.plan.bits,
            metric=self._metric(),
        )
        index.build(base, centroids, assignments, num_threads=BUILD_THREADS)
        index.save(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        return self.package().IvfIndex.load(str(folder / FILE))

    def keeps_vectors(self) -> bool:
        """Where it rescores with them."""
        return self.plan.bits == 32

    def settings(self) -> list[str]:
        """nprobe."""
        return [f"nprobe={nprobe}" for nprobe in self.plan.nprobe]

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` with one thread."""
        nprobe = min(int(setting.partition("=")[2]), loaded.num_clusters)
        search = loaded.search
        return lambda query: search(query, k, nprobe, num_threads=1)[0][0]


class RabitqHnsw(Rabitqlib, Graph):
    """HNSW that is walked over codes; scores are estimates from the codes."""

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Cluster, encode and link."""
        centroids, assignments = self._clusters(base, HNSW_CENTROIDS)
        plan = self.plan
        index = self.package().HnswIndex(
            base.shape[1],
            len(base),
            M=plan.degree,
            ef_construction=plan.ef_construction,
            nbits=int(plan.storage.removesuffix("bit")),
            metric=self._metric(),
        )
        index.build(base, centroids, assignments, num_threads=BUILD_THREADS)
        index.save(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        return self.package().HnswIndex.load(str(folder / FILE))

    def keeps_vectors(self) -> bool:
        """Codes alone."""
        return False

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` with one thread."""
        ef, search = beam(setting, k), loaded.search
        return lambda query: search(query, k, ef, num_threads=1)[0][0]


class SymphonyQg(Rabitqlib, Graph):
    """A graph whose rows carry the 1-bit codes of their neighbours, so that a step scores them all from registers.

    Every row holds a code for each of its edges, so it takes more memory than the vectors do.
    """

    def build(self, base: np.ndarray, folder: Path) -> None:
        """Link and encode."""
        bits = 0 if self.plan.storage == "f32" else int(self.plan.storage.removesuffix("bit"))
        index = self.package().SymqgIndex(base.shape[1], self.plan.degree, self._metric(), bits)
        index.build(base, self.plan.ef_construction, num_threads=BUILD_THREADS)
        index.save(str(folder / FILE))

    def load(self, folder: Path, base: np.ndarray) -> Any:
        """Read the index into memory."""
        return self.package().SymqgIndex.load(str(folder / FILE))

    def keeps_vectors(self) -> bool:
        """Unless they are quantized."""
        return self.plan.storage == "f32"

    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """`search` with one thread."""
        ef, search = beam(setting, k), loaded.search
        return lambda query: search(query, k, ef, num_threads=1)[0][0]

    def tiny_rows(self) -> int:
        """More rows than a row has edges."""
        return 2 * self.plan.degree
