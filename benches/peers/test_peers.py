"""Tests of the comparison itself; those of an engine are skipped where its package is not installed.

cd benches/peers && .venv/bin/python -m unittest
"""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import numpy as np

from engines import ENGINES, EngineMissing, engine_class
from engines.plan import FaissPlan, GraphPlan, Plan, RabitqIvfPlan, ScannPlan
from engines.store import IndexStore
from frontier import by_dataset, by_engine, engine_rows, pareto, plots
from measure import Dataset, nearest, recall_at, time_queries
from plans import PLANS
from records import Record

ROWS, DIMENSION, QUERIES, K = 2000, 64, 40, 10

# Small indexes whose one setting reads nearly everything, so that a wrong answer is the engine's call, not its tuning.
SMALL: tuple[Plan, ...] = (
    FaissPlan("IVF8,PQ32x4fs,RFlat", (8,), (20,)),
    FaissPlan("RR,IVF8,RaBitQfs,RFlat", (8,), (100,)),
    ScannPlan(8, 2, (8,), (200,)),
    GraphPlan("hnswlib", 16, 100, (200,)),
    GraphPlan("usearch", 16, 100, (200,), "f16"),
    GraphPlan("glass", 16, 100, (200,), "sq8+f32"),
    GraphPlan("diskann", 32, 100, (200,)),
    RabitqIvfPlan(8, 32, (8,)),
    GraphPlan("rabitq-hnsw", 16, 100, (200,), "8bit"),
    GraphPlan("symphonyqg", 32, 100, (200,)),
)


def small_dataset(metric: str) -> Dataset:
    """Seeded normal rows and queries, of unit length for cosine, with their exact nearest."""
    random = np.random.default_rng(7)
    base, queries = (random.standard_normal((count, DIMENSION)).astype(np.float32) for count in (ROWS, QUERIES))
    if metric == "cosine":
        base, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, queries))
    return Dataset("small", metric, base, queries, nearest(base, queries))


def record(engine: str, recall: float, qps: float, memory: float | None = 100.0) -> Record:
    """A record with the fields that tables and plots need."""
    about = {"engine": engine, "index": f"{engine} index", "dataset": "set", "k": K}
    return about | {"recall": recall, "qps": qps, "memory_bytes_per_row": memory}


class Engines(unittest.TestCase):
    """Every engine finds the nearest rows of a small set, under both metrics, and again from its files."""

    def test_every_engine_has_a_small_plan(self) -> None:
        self.assertEqual({plan.engine for plan in SMALL}, set(ENGINES))
        self.assertLessEqual({plan.engine for plans in PLANS.values() for plan in plans}, set(ENGINES))

    def test_nearest_rows_are_found(self) -> None:
        for metric in ("l2", "cosine"):
            dataset = small_dataset(metric)
            for plan in SMALL:
                with self.subTest(engine=plan.engine, metric=metric), tempfile.TemporaryDirectory() as folder:
                    self.check(plan, dataset, IndexStore(Path(folder), dataset.base, metric))

    def check(self, plan: Plan, dataset: Dataset, store: IndexStore) -> None:
        """Built once, found once, recall above .95 from both, and memory that is at least the codes'."""
        try:
            peer_class, version = engine_class(plan.engine)
        except EngineMissing as error:
            self.skipTest(str(error))
        for fresh in (True, False):
            peer = peer_class(plan, dataset, store, version)
            self.assertEqual(peer.fresh, fresh)
            search = peer.searcher(peer.settings()[0], K)
            timing = time_queries(search, peer.queries(dataset.queries), K)
            self.assertGreater(recall_at(dataset, timing.rows, K), 0.95)
        if not peer.measured_in_memory:
            self.assertGreater(peer.memory_bytes, dataset.base.nbytes if peer.keeps_vectors() else ROWS * DIMENSION / 8)
        self.assertGreater(peer.call_overhead_us(dataset.queries, K), 0)


class Store(unittest.TestCase):
    """An index is built once for the same engine, parameters and rows, and again for others or after a kill."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.built = Path(folder.name), 0

    def get(self, rows: np.ndarray, version: str = "1") -> bool:
        """Whether it was built by this call."""
        return IndexStore(self.folder, rows, "l2").get("engine", version, "index", self.build).fresh

    def build(self, folder: Path) -> None:
        """Writes a file, or fails when told to."""
        (folder / "file").write_bytes(b"x" * 10)
        self.built += 1

    def test_same_index_is_found(self) -> None:
        rows = np.zeros((4, 2), dtype=np.float32)
        self.assertTrue(self.get(rows))
        self.assertFalse(self.get(rows))
        self.assertTrue(self.get(rows + 1))
        self.assertTrue(self.get(rows, version="2"))
        self.assertEqual(self.built, 3)

    def test_unfinished_build_is_done_again(self) -> None:
        rows = np.zeros((4, 2), dtype=np.float32)

        def killed(folder: Path) -> None:
            (folder / "half").write_bytes(b"x")
            raise KeyboardInterrupt

        store = IndexStore(self.folder, rows, "l2")
        with self.assertRaises(KeyboardInterrupt):
            store.get("engine", "1", "index", killed)
        stored = store.get("engine", "1", "index", self.build)
        self.assertTrue(stored.fresh)
        self.assertEqual(stored.file_bytes, 10)


class Frontier(unittest.TestCase):
    """Tables and plots of records."""

    def test_pareto_keeps_what_nothing_beats(self) -> None:
        records = [record("a", 0.9, 100), record("a", 0.95, 120), record("a", 0.99, 50), record("a", 0.99, 40)]
        self.assertEqual([(r["recall"], r["qps"]) for r in pareto(records)], [(0.95, 120), (0.99, 50)])

    def test_engines_are_ordered_by_speed_and_named_with_their_memory(self) -> None:
        records = [record("slow", 0.96, 10, 50.0), record("fast", 0.96, 90, 3136.0), record("low", 0.91, 999)]
        series = by_dataset(records)["set"]
        self.assertEqual(list(by_engine(series)), ["fast", "slow", "low"])
        rows = {row[0]: row[1:] for row in engine_rows(series)}
        self.assertEqual(rows["fast"], ["90", "3,136", "90", "3,136", "not reached", "-"])
        self.assertEqual(rows["low"], ["999", "100", "not reached", "-", "not reached", "-"])

    def test_plots_show_every_engine_that_has_something_to_show(self) -> None:
        records = [record("bigrain", 0.96, 10), record("other", 0.97, 90, None), record("poor", 0.5, 900)]
        drawn = plots("set", by_dataset(records)["set"])
        self.assertIn(">bigrain</text>", drawn["frontier"])
        self.assertIn("memory unknown", drawn["frontier"])
        self.assertNotIn("poor", drawn["frontier"])
        self.assertNotIn("other", drawn["memory"])
        self.assertEqual(plots("set", by_dataset([record("poor", 0.5, 900)])["set"]), {})


if __name__ == "__main__":
    unittest.main()
