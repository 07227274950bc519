"""Built indexes kept on disk, so that a second run only measures.

An index is a folder named after its engine, what it is made of and a digest of everything that decides its bytes: the
engine's version, the build parameters, the metric and the rows. `built.json` in it holds what the build took.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPORT = "built.json"


@dataclass(frozen=True)
class StoredIndex:
    """An index on disk: its folder, seconds that its build took (whenever that was), bytes of its files."""

    folder: Path
    build_s: float
    file_bytes: int
    fresh: bool


class IndexStore:
    """A folder of built indexes of one data set."""

    def __init__(self, folder: Path, base: np.ndarray, metric: str) -> None:
        self._folder = folder
        rows = hashlib.sha256(np.ascontiguousarray(base)).hexdigest()
        self._identity = [metric, list(base.shape), rows]

    def get(self, engine: str, version: str, index: str, build: Callable[[Path], None]) -> StoredIndex:
        """The stored index, built into an empty folder by `build` where there is none yet."""
        digest = hashlib.sha256(json.dumps([engine, version, index, *self._identity]).encode()).hexdigest()[:12]
        folder = self._folder / f"{engine}-{re.sub(r'[^A-Za-z0-9.]+', '_', index)}-{digest}"
        fresh = not (folder / REPORT).is_file()
        if fresh:
            self._build(folder, build)
        report = json.loads((folder / REPORT).read_text())
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != REPORT]
        return StoredIndex(folder, report["build_s"], sum(sizes), fresh)

    def _build(self, folder: Path, build: Callable[[Path], None]) -> None:
        """Build into `folder`; the report is written last, so a build that was killed is done again."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        build(folder)
        report = {"build_s": round(time.perf_counter() - start, 2)}
        (folder / REPORT).write_text(json.dumps(report))
