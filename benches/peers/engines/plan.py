"""What to build and which settings to search it with: plain data, read without any engine installed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaissPlan:
    """An index factory string and the grid of its search parameters.

    k_factor_rf: a search keeps k x k_factor_rf candidates of the code scan and rescores them with the full vectors
    (`RFlat`); empty where the index has none.
    """

    factory: str
    nprobe: tuple[int, ...]
    k_factor_rf: tuple[int, ...] = ()

    @property
    def engine(self) -> str:
        """Codes by RaBitQ count as an engine of their own."""
        return "faiss-rabitq" if "RaBitQ" in self.factory else "faiss"

    def name(self) -> str:
        """The factory string."""
        return self.factory


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
    engine: str = "scann"

    def name(self) -> str:
        """A short description of the index."""
        parts = [f"tree{self.leaves}", f"ah{self.dims_per_block}"]
        parts += [f"anisotropic{self.anisotropic}"] if self.anisotropic is not None else []
        parts += ["soar"] if self.soar else []
        return ",".join([*parts, "reorder"])


@dataclass(frozen=True)
class GraphPlan:
    """A proximity graph and the beam widths (`ef`) to walk it with.

    degree: the package's own parameter: M for HNSW (2 M edges a row in its lowest layer), R for Vamana, glass and
        SymphonyQG (edges a row).
    ef_construction: beam width while building (L, complexity).
    storage: how rows are kept, in the engine's words: f32, f16, sq8, sq8+f32 (walk the first, rescore with the second);
        for rabitq-hnsw and symphonyqg the bits a dimension.
    """

    engine: str
    degree: int
    ef_construction: int
    ef: tuple[int, ...]
    storage: str = "f32"

    def name(self) -> str:
        """A short description of the index."""
        return f"degree{self.degree},efc{self.ef_construction},{self.storage}"


@dataclass(frozen=True)
class RabitqIvfPlan:
    """Inverted lists of RaBitQ codes.

    bits: a dimension, 1 to 9 (scores are estimates from the codes alone), or 32: 1-bit codes, candidates rescored with
        f32 vectors that the index keeps.
    """

    lists: int
    bits: int
    nprobe: tuple[int, ...]
    engine: str = "rabitq-ivf"

    def name(self) -> str:
        """A short description of the index."""
        return f"IVF{self.lists}," + ("1bit,f32" if self.bits == 32 else f"{self.bits}bit")


Plan = FaissPlan | ScannPlan | GraphPlan | RabitqIvfPlan
