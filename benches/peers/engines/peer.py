"""What all engines have in common: built into a folder or found there, loaded from it, searched by one call a query."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engines.plan import Plan
from engines.store import IndexStore
from measure import Dataset, time_queries

BUILD_THREADS = 2
TINY_ROWS = 16
OVERHEAD_QUERIES = 2000

Call = Callable[[Any], np.ndarray]


class Peer(ABC):
    """An index that is loaded and can be searched at several settings.

    Always loaded from its files, also right after it was built, so that a first run and a second measure the same
    thing.

    memory_bytes: size of those files, which hold what memory does; where an engine cannot write all it keeps
        (`measured_in_memory`), what this process grew by in loading it; None where that cannot be read.
    code_bytes: the same without the f32 vectors that it keeps.
    """

    measured_in_memory = False

    def __init__(self, plan: Plan, dataset: Dataset, store: IndexStore, version: str) -> None:
        self.plan = plan
        self.engine, self.index = plan.engine, plan.name()
        self.metric = dataset.metric
        with quiet():
            stored = store.get(self.engine, version, self.build_name(), lambda folder: self.build(dataset.base, folder))
            before = resident_bytes()
            self.loaded = self.load(stored.folder, dataset.base)
            after = resident_bytes()
        self.build_s, self.fresh = stored.build_s, stored.fresh
        grown = None if before is None or after is None else max(after - before, 0)
        self.memory_bytes = grown if self.measured_in_memory else stored.file_bytes
        vectors = dataset.base.nbytes if self.keeps_vectors() else 0
        self.code_bytes = None if self.memory_bytes is None else max(self.memory_bytes - vectors, 0)

    @staticmethod
    @abstractmethod
    def package() -> ModuleType:
        """The engine's package, imported; ImportError where it is not installed."""

    @abstractmethod
    def build(self, base: np.ndarray, folder: Path) -> None:
        """Build over `base` (rows x dimension, f32) with `BUILD_THREADS` threads and write the index into `folder`."""

    @abstractmethod
    def load(self, folder: Path, base: np.ndarray) -> Any:
        """What `call` searches, from the files in `folder` (and the rows, for an engine that does not write them)."""

    @abstractmethod
    def settings(self) -> list[str]:
        """Every search setting to measure."""

    @abstractmethod
    def call(self, loaded: Any, setting: str, k: int) -> Call:
        """The search call on a loaded index at a setting: a query to at most k rows, -1 for none."""

    def build_name(self) -> str:
        """What the bytes on disk depend on."""
        return self.index

    def keeps_vectors(self) -> bool:
        """Whether the index holds the f32 vectors."""
        return True

    def tiny_rows(self) -> int:
        """Rows of the smallest index that it builds."""
        return TINY_ROWS

    def queries(self, queries: np.ndarray) -> list[np.ndarray]:
        """Each query as `call` takes it: a matrix of one row, unless an engine wants vectors."""
        return [queries[i : i + 1] for i in range(len(queries))]

    def searcher(self, setting: str, k: int) -> Call:
        """The search call at a setting."""
        return self.call(self.loaded, setting, k)

    def call_overhead_us(self, queries: np.ndarray, k: int) -> float:
        """Median microseconds of a call on an index of a few rows."""
        with quiet():
            search = self.tiny(queries, k)
        timing = time_queries(search, self.queries(queries[:OVERHEAD_QUERIES]), k)
        return float(np.median(timing.latencies_us))

    def tiny(self, rows: np.ndarray, k: int) -> Call:
        """The call on an index of the first few of `rows`, built as this one is."""
        rows = rows[: self.tiny_rows()]
        with tempfile.TemporaryDirectory() as folder:
            self.build(rows, Path(folder))
            return self.call(self.load(Path(folder), rows), self.settings()[0], k)


def resident_bytes() -> int | None:
    """Resident memory of this process once free memory was given back; None where the system does not tell."""
    gc.collect()
    if sys.platform != "linux":
        return None
    # Memory that an earlier index freed would otherwise be used again unseen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code prints to the standard output, where its progress would stand among reports."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 1)
        yield
        # Buffered by C, not by Python: written now or it comes out later.
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
