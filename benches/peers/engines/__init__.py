"""The engines that are measured: one module a package, imported when a plan asks for it.

| engine | module | package | what it is |
|---|---|---|---|
| faiss, faiss-rabitq | faiss | faiss-cpu | inverted lists of 4-bit product codes, or of RaBitQ codes; rescored |
| scann | scann | scann | tree of leaves, anisotropic hashing, reordering |
| hnswlib | graphs | hnswlib | HNSW over f32 vectors |
| usearch | graphs | usearch | HNSW over f32 or f16 vectors |
| glass | graphs | pyglass-portable | HNSW walked over 8-bit vectors, candidates rescored with f32 |
| diskann | graphs | diskannpy | Vamana in memory, f32 vectors |
| rabitq-ivf, rabitq-hnsw | rabitq | rabitqlib | inverted lists, or HNSW, of RaBitQ codes |
| symphonyqg | rabitq | rabitqlib | graph whose neighbours carry RaBitQ codes, with f32 or 8-bit vectors |

All are called through their own Python interface, one query a call, in one thread. What such a call costs before any
work is done is measured on an index of a few rows (`Peer.call_overhead_us`), so that a reader can subtract it.

Left out: DiskANN's index on disk, since what it does is asynchronous reads, which one query a call on a shared disk
says little of.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from engines.peer import Peer

# Engine: module, class, package.
ENGINES = {
    "faiss": ("faiss", "Faiss", "faiss-cpu"),
    "faiss-rabitq": ("faiss", "Faiss", "faiss-cpu"),
    "scann": ("scann", "Scann", "scann"),
    "hnswlib": ("graphs", "Hnswlib", "hnswlib"),
    "usearch": ("graphs", "Usearch", "usearch"),
    "glass": ("graphs", "Glass", "pyglass-portable"),
    "diskann": ("graphs", "Diskann", "diskannpy"),
    "rabitq-ivf": ("rabitq", "RabitqIvf", "rabitqlib"),
    "rabitq-hnsw": ("rabitq", "RabitqHnsw", "rabitqlib"),
    "symphonyqg": ("rabitq", "SymphonyQg", "rabitqlib"),
}


class EngineMissing(Exception):
    """An engine whose package is not installed or does not load here; the message says which and why."""


def engine_class(engine: str) -> tuple[type[Peer], str]:
    """The class of an engine of `ENGINES` and the version of its package."""
    module, name, package = ENGINES[engine]
    try:
        # The package itself is imported by the class when it is used, so one module can hold several engines.
        peer_class = getattr(import_module(f"engines.{module}"), name)
        peer_class.package()
        return peer_class, version(package)
    except (ImportError, PackageNotFoundError) as error:
        raise EngineMissing(f"{package} cannot be imported ({error}); run setup.sh and read what it says") from error
